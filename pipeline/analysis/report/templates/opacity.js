const slider = document.getElementById("opacity");
const show = () => {
  document.querySelector(".gallery").style.setProperty("--opacity", slider.value / 100);
  slider.nextElementSibling.value = slider.value + " %";
};
slider.addEventListener("input", show);
slider.closest("fieldset").hidden = false;
show();

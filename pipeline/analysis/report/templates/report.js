const page = document.documentElement;
const all = (selector, from = document) => [...from.querySelectorAll(selector)];

// Light or dark: as the system has it, until somebody says otherwise.
const theme = document.getElementById("theme");
const dark = () => page.dataset.theme ? page.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
const name_theme = () => { theme.textContent = dark() ? "Light" : "Dark"; };
theme.addEventListener("click", () => { page.dataset.theme = dark() ? "light" : "dark"; name_theme(); });
theme.hidden = false;
name_theme();

// The table of contents marks the section that is being read.
const links = new Map(all("nav a").map(link => [link.hash.slice(1), link]));
const heads = all("section[id]").filter(section => links.has(section.id));
const mark = () => {
  const read = heads.filter(section => section.getBoundingClientRect().top < 120).pop() || heads[0];
  for (const [id, link] of links) link.toggleAttribute("aria-current", read && id === read.id);
};
addEventListener("scroll", mark, { passive: true });
mark();

const gallery = document.querySelector(".gallery");
if (gallery) {
  gallery.classList.add("live");
  all("[data-script]", gallery).forEach(one => { one.hidden = false; });

  const opacity = document.getElementById("opacity");
  const fade = () => {
    gallery.style.setProperty("--opacity", opacity.value / 100);
    opacity.nextElementSibling.value = opacity.value + " %";
  };
  opacity.addEventListener("input", fade);
  fade();

  // Which images are shown, and in which order.
  const cards = all(".card", gallery), choice = document.getElementById("choice");
  const kind = () => gallery.querySelector("input[name=kind]:checked").value;
  const show = () => {
    const chosen = choice.selectedOptions[0], of = chosen.dataset.class;
    const wanted = chosen.dataset[kind()].split(" ").filter(Boolean).map(Number);
    cards.forEach((card, place) => {
      card.classList.toggle("shown", wanted.includes(place));
      card.style.order = wanted.indexOf(place);
      const score = of && card.dataset.scores ? card.dataset.scores.split(",")[of] : "";
      card.querySelector(".own").textContent = score ? `${chosen.textContent}: IoU ${score} %` : "";
    });
    document.getElementById("none").hidden = wanted.length > 0;
  };
  choice.addEventListener("change", show);
  all("input[name=kind]", gallery).forEach(one => one.addEventListener("change", show));
  show();

  // A link to an image that is not shown chooses a list that has it; the link's own list first.
  all("a[data-choice]").forEach(link => link.addEventListener("click", () => {
    choice.value = link.dataset.choice;
    show();
  }));

  // Wipes: the left side over the right one.
  all(".wipe", gallery).forEach(wipe => {
    const stage = wipe.closest(".stage");
    const move = () => stage.style.setProperty("--wipe", wipe.value + "%");
    wipe.addEventListener("input", move);
    move();
  });

  // The class below the pointer, read from the masks' own colours.
  const names = new Map(all(".legend [data-rgb]", gallery).map(one => [one.dataset.rgb, one.textContent.trim()]));
  const pixels = new WeakMap();
  const class_at = (layer, x, y) => {
    if (!layer.naturalWidth) return "…"; // not loaded yet
    if (!pixels.has(layer)) {
      const canvas = new OffscreenCanvas(layer.naturalWidth, layer.naturalHeight);
      const drawn = canvas.getContext("2d", { willReadFrequently: true });
      drawn.drawImage(layer, 0, 0);
      pixels.set(layer, drawn);
    }
    const [r, g, b, a] = pixels.get(layer).getImageData(x * layer.naturalWidth, y * layer.naturalHeight, 1, 1).data;
    return a ? names.get(`${r},${g},${b}`) : "ignored";
  };
  all(".stage", gallery).forEach(stage => {
    const said = stage.parentElement.querySelector(".under"), before = said.textContent;
    stage.addEventListener("pointerenter", () => all(".data", stage).forEach(layer => { layer.loading = "eager"; }));
    stage.addEventListener("pointermove", event => {
      const box = stage.getBoundingClientRect();
      const x = Math.min(Math.max((event.clientX - box.left) / box.width, 0), 0.999);
      const y = Math.min(Math.max((event.clientY - box.top) / box.height, 0), 0.999);
      const found = ["truth", "prediction", "other"].map(of => [of, stage.querySelector(`.${of} .data`)]).filter(([, layer]) => layer);
      said.textContent = found.map(([of, layer]) => `${of === "other" ? "other run" : of}: ${class_at(layer, x, y)}`).join(" · ");
    });
    stage.addEventListener("pointerleave", () => { said.textContent = before; });
  });
}

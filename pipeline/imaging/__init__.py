"""Images and masks as arrays and files: decoding, augmentation, mask formats, regions, overlays."""

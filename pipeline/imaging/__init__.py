"""Pixels in and out: decoding, augmentation, masks, overlays."""

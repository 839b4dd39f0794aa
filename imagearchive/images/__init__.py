"""Images: decoding, cropping, resampling and normalising, natively or by Pillow."""

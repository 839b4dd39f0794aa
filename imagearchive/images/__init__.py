"""Images: decoding, cropping, resampling and normalizing, natively or by Pillow."""

"""The networks of the VAE-GAN and its loss."""

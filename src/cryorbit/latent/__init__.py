"""The latent space: embedding, principal axes, the orbits of the group of in-plane turns."""

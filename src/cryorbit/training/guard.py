"""The guard: notices when the adversarial game is lost or the latent space collapses, and says what to do."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

# A discriminator this sure of itself no longer teaches the generator.
WON_LOSS = 0.15
# An axis whose posterior means vary less than this over the data carries nothing (Burda et al. 2016).
ACTIVE_VARIANCE = 0.01
PATIENCE = 3


@dataclass
class Guard:
    """Watches the epochs of one training; each warning is given once."""

    epochs_won: int = 0
    epochs_collapsed: int = 0
    given: list[str] = field(default_factory=list)

    def watch(self, discriminator_loss: float | None, latent_mean: np.ndarray) -> list[str]:
        """Look at an epoch.

        Parameters
        ----------
        discriminator_loss
            Mean over the epoch, 1.39 when it guesses; None without a GAN.
        latent_mean
            Posterior means of validation images, shape (n, latent).

        Returns
        -------
        list of str
            New warnings.
        """
        won = discriminator_loss is not None and discriminator_loss < WON_LOSS
        self.epochs_won = self.epochs_won + 1 if won else 0
        active = active_axes(latent_mean)
        self.epochs_collapsed = self.epochs_collapsed + 1 if active < 2 and len(latent_mean) > 2 else 0
        found = []
        if self.epochs_won == PATIENCE:
            found.append(
                f"The discriminator has won: its loss was below {WON_LOSS} for {PATIENCE} epochs, so it teaches "
                "nothing more. Raise discriminator_floor or lower lambda_GAN."
            )
        if self.epochs_collapsed == PATIENCE:
            found.append(
                f"The latent space has collapsed: {active} of {latent_mean.shape[1]} axes carry information, where "
                "an orbit needs two. Lower lambda_reg."
            )
        new = [warning for warning in found if warning not in self.given]
        self.given.extend(new)
        return new


def active_axes(latent_mean: np.ndarray) -> int:
    """Latent axes along which the data differ.

    References
    ----------
    Burda, Grosse & Salakhutdinov 2016, "Importance weighted autoencoders", section 5.2.
    """
    return int((latent_mean.var(axis=0) > ACTIVE_VARIANCE).sum()) if len(latent_mean) else 0

r"""The reductions people write between a table of KLs and a loss, as data.

The right one: sum the KL over latent dimensions and the log-likelihood over pixels, image by
image, and only then average over images. Every other choice of sum and mean multiplies one term
against the other, which makes it an *effective beta*: the weight of an image's KL against its
summed log-likelihood,

.. math:: \beta = \frac{\partial L / \partial KL_{n,d}}{- \partial L / \partial \log p(x_{n,i})}

A reduction that only looks wrong is acquitted: a common factor changes no minimum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

__all__ = ["REDUCTIONS", "Reduction", "Verdict"]

Verdict = Literal["right", "β in disguise", "not a KL per sample"]


@dataclass(frozen=True)
class Reduction:
    r"""Describes one way to reduce a table of KLs and log-likelihoods to a loss.

    Args:
        name: What it does, in a few words.
        code: The decisive lines as people write them, their own names shortened.
        where: Where it stands, or was asked about.
        formula: The loss from KLs :math:`(B, D)`, log-likelihoods by pixel :math:`(B, P)` and
            the number N of training images.
        beta: The effective beta from :math:`B, D, P, N`.
        verdict: ``right``, ``β in disguise`` or ``not a KL per sample``.
        explanation: Why, in a sentence or two.
        squared_error: Whether the original's error is a squared one: then the log-likelihood
            stands for minus the squared error, and the implied variance says what beta means.
    """

    name: str
    code: str
    where: str
    formula: Callable[[Tensor, Tensor, int], Tensor]
    beta: Callable[[int, int, int, int], float]
    verdict: Verdict
    explanation: str
    squared_error: bool = False

    def loss(self, kl_per_dim: Tensor, log_likelihood: Tensor, images: int = 60_000) -> Tensor:
        r"""The loss that this reduction gives.

        Args:
            kl_per_dim: :math:`KL_{n,d}` in nats, with shape :math:`(B, D)`.
            log_likelihood: :math:`\log p(x_{n,i} \mid z_n)` in nats, with shape :math:`(B, P)`.
            images: The number N of training images.

        Returns:
            The loss, a scalar.
        """
        return self.formula(kl_per_dim, log_likelihood, images)

    def effective_beta(self, batch: int, dims: int, pixels: int, images: int = 60_000) -> float:
        r"""The weight of one image's KL against its summed log-likelihood.

        Args:
            batch: The batch size B.
            dims: The number D of latent dimensions.
            pixels: The number P of pixel values.
            images: The number N of training images.
        """
        return self.beta(batch, dims, pixels, images)


REDUCTIONS = (
    Reduction(
        name="Sum over dimensions, mean over images",
        code="loss = (bce.sum(-1) + kl.sum(-1)).mean()",
        where="Kingma & Welling 2014, eq. 8 and 10; this package",
        formula=lambda kl, ll, images: (kl.sum(-1) - ll.sum(-1)).mean(),
        beta=lambda b, d, p, n: 1.0,
        verdict="right",
        explanation="Each image is charged its own KL against its own log-likelihood; the mean "
        "over the batch comes last.",
    ),
    Reduction(
        name="Everything summed over the batch",
        code="BCE = F.binary_cross_entropy(recon_x, x, reduction='sum')\n"
        "KLD = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())\n"
        "return BCE + KLD",
        where="pytorch/examples vae/main.py since #296; asked about in #652 and unnir/cVAE#1",
        formula=lambda kl, ll, images: kl.sum() - ll.sum(),
        beta=lambda b, d, p, n: 1.0,
        verdict="right",
        explanation="Both terms carry the same factor B, which only rescales the learning rate; "
        "but one number for the batch hides B numbers, one an image.",
    ),
    Reduction(
        name="Element-mean error, KL divided by batch × pixels",
        code="BCE = F.binary_cross_entropy(recon_x, x)\n"
        "KLD = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())\n"
        "KLD /= batch_size * 784",
        where="pytorch/examples until #296; doubted in #234, #290 and #294",
        formula=lambda kl, ll, images: -ll.mean() + kl.sum() / ll.numel(),
        beta=lambda b, d, p, n: 1.0,
        verdict="right",
        explanation="It looks wrong and is right: the mean divides the error by batch × pixels "
        "too. Dividing the KL by its own 20 dimensions instead, as was proposed, would not be.",
    ),
    Reduction(
        name="Mean over images before the sum over dimensions",
        code="latent_kl = 0.5 * (-1 - logvar + mean.pow(2) + logvar.exp()).mean(dim=0)\n"
        "total_kl = latent_kl.sum()",
        where="YannDubs/disentangling-vae losses.py",
        formula=lambda kl, ll, images: kl.mean(0).sum() - ll.sum() / len(ll),
        beta=lambda b, d, p, n: 1.0,
        verdict="right",
        explanation="Sums commute, so the loss is the same number; but the images are gone after "
        "the first step, and no KL per sample can be shown any more.",
    ),
    Reduction(
        name="Mean over latent dimensions",
        code="kl_loss = -0.5 * K.mean(1 + z_log_var - K.square(z_mean) - K.exp(z_log_var), "
        "axis=-1)",
        where="the KL of maxhodak/keras-molecules#59 and mkusner/grammarVAE#2",
        formula=lambda kl, ll, images: (kl.mean(-1) - ll.sum(-1)).mean(),
        beta=lambda b, d, p, n: 1 / d,
        verdict="β in disguise",
        explanation="A KL between two vectors is a sum over their dimensions; the mean divides "
        "it by D, and a code of more dimensions becomes cheaper.",
    ),
    Reduction(
        name="Mean over batch and latent dimensions at once",
        code="kl_loss = -0.5 * tf.reduce_mean(z_log_var - tf.square(z_mean) - tf.exp(z_log_var) "
        "+ 1)",
        where="SeldonIO/alibi-detect autoencoder.py; see #90",
        formula=lambda kl, ll, images: kl.mean() - ll.sum(-1).mean(),
        beta=lambda b, d, p, n: 1 / d,
        verdict="β in disguise",
        explanation="One mean over both axes of the table divides by D besides B, while the "
        "log-likelihood is summed over pixels: its “elbo” is the ELBO only at β = D.",
    ),
    Reduction(
        name="Sum over the batch, mean over latent dimensions",
        code="KL = -0.5 * torch.sum((1 + logvar - mean.pow(2) - logvar.exp()), dim=0)\n"
        "KL = torch.mean(KL)\n"
        "return F.binary_cross_entropy(reconst, images, reduction='sum') + 5.0 * KL",
        where="masato-ka/airc-rl-agent, VAE_CNN.ipynb; see #44",
        formula=lambda kl, ll, images: 5.0 * kl.sum(0).mean() - ll.sum(),
        beta=lambda b, d, p, n: 5 / d,
        verdict="β in disguise",
        explanation="The axes are swapped: what should be summed is averaged. The factor 5 "
        "undoes a part of it.",
    ),
    Reduction(
        name="Mean over everything in both terms",
        code="xent_loss = objectives.binary_crossentropy(x, x_decoded_mean)\n"
        "kl_loss = -0.5 * K.mean(1 + z_log_sigma - K.square(z_mean) - K.exp(z_log_sigma), "
        "axis=-1)",
        where="the Keras blog on autoencoders (keras#6015); the KL of podgorskiy/VAE#1",
        formula=lambda kl, ll, images: kl.mean() - ll.mean(),
        beta=lambda b, d, p, n: p / d,
        verdict="β in disguise",
        explanation="“Both are means” is no balance: one divides by P pixels, the other by D "
        "dimensions. With 784 pixels and 20 dimensions the KL weighs 39 times too much.",
    ),
    Reduction(
        name="Mean error, KL summed over the batch",
        code="mse = F.mse_loss(predicted, target)\n"
        "kl = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())",
        where="zdebruine/MMVAE before #19; the two defaults left as they are",
        formula=lambda kl, ll, images: kl.sum() - ll.mean(),
        beta=lambda b, d, p, n: float(b * p),
        verdict="β in disguise",
        explanation="The error is divided by batch × pixels and the KL by nothing, so the KL "
        "weighs B · P times too much and the code collapses within a few epochs.",
        squared_error=True,
    ),
    Reduction(
        name="KL weighted by batch size over data set size",
        code="kld_weight = kwargs['M_N']  # batch_size / num_train_images\n"
        "loss = F.mse_loss(recons, input) + kld_weight * kld_loss",
        where="AntixK/PyTorch-VAE vanilla_vae.py; asked about in #11, #23, #35, #40 and #56",
        formula=lambda kl, ll, images: kl.sum(-1).mean() * len(kl) / images - ll.mean(),
        beta=lambda b, d, p, n: b * p / n,
        verdict="β in disguise",
        explanation="The KL needs no correction for the minibatch. Against a pixel mean the "
        "weight that gives β = 1 is 1 / P; this one depends on batch and data set instead.",
        squared_error=True,
    ),
    Reduction(
        name="Batch-mean KL clamped to a capacity of 0",
        code="kl_loss = torch.mean(-0.5 * torch.sum(1 + z_logvar - z_mu ** 2 - "
        "torch.exp(z_logvar), dim=1), dim=0)\n"
        "kl_loss = torch.clamp(kl_loss, min=0, max=capacity)  # capacity=0.0",
        where="yzhao062/pyod vae.py, the default",
        formula=lambda kl, ll, images: kl.sum(-1).mean().clamp(min=0, max=0) - ll.mean(),
        beta=lambda b, d, p, n: 0.0,
        verdict="not a KL per sample",
        explanation="The clamp holds the KL at 0 whatever the codes are, so nothing is charged "
        "and the model is an autoencoder with noise; and it clamps the mean over the batch, "
        "so that one image could pay for another.",
        squared_error=True,
    ),
)

"""Importance-weighted bounds: with several codes of a text, -log p(x) is bounded more tightly."""

from __future__ import annotations

import math
from collections.abc import Mapping

from keras import ops

from .distributions import Gaussian
from .tensors import Tensor


def importance_weighted_nll(log_weights: Tensor) -> Tensor:
    """-log of the mean importance weight of k samples, nats, (k, ...) -> (...).

    `log_weights` are log p(x, z) - log q(z|x). The result is an upper bound on -log p(x) that
    decreases with k; at k = 1 it is the ELBO (Burda et al. 2016, eq. 8).
    """
    return math.log(log_weights.shape[0]) - ops.logsumexp(log_weights, axis=0)


def importance_weighted_terms(
    reconstruction: Tensor,
    counted: Tensor,
    outputs: Mapping[str, Tensor],
    beta: Tensor,
    samples: int,
    doubly_reparameterized: bool = False,
) -> dict[str, Tensor]:
    """Bounds of texts with K `samples` each, (B,), nats per sequence.

    `reconstruction` (B * K,) and `log_ratio` of the `outputs` are those of every code, text by
    text; `counted` (B * K,) is the reconstruction that the loss counts. `importance_weighted_nll`
    has the weights p(x, z) / q(z|x) of Burda et al. 2016, eq. 8. `loss` has the weights
    p(x|z) (p(z) / q(z|x))^beta, where p(x|z) is exp(-counted).

    `inference_loss` is there for doubly reparameterised gradients (IWAE-DReG, Tucker et al.
    2019). Its value means nothing. Its gradient for the parameters phi of q(z|x), which must be a
    Gaussian of one level, is

        sum_k f_k dc_k/dz_k dz_k/dphi    with f_k = (1 - beta) v_k + beta v_k^2

    c_k is minus the logarithm of weight k, and v_k is its share of all K weights. The ordinary
    gradient has v_k in place of f_k, and beta v_k times the score d log q(z_k|x)/dphi. The mean of
    that term is also that of beta dv_k/dz_k dz_k/dphi (their second reparameterisation), and
    dv_k/dz_k is -v_k (1 - v_k) dc_k/dz_k. At beta 1 the sum is their estimator.
    """
    log_ratio = outputs["log_ratio"]

    def of_texts(rows: Tensor) -> Tensor:
        """(B * K,) -> (K, B)."""
        return ops.transpose(ops.reshape(rows, (-1, samples)))

    cost = counted + beta * log_ratio
    terms = {
        "loss": importance_weighted_nll(-of_texts(cost)),
        "importance_weighted_nll": importance_weighted_nll(-of_texts(reconstruction + log_ratio)),
    }
    if doubly_reparameterized:
        posterior = Gaussian(outputs["mean"], outputs["log_variance"])
        score = posterior.log_prob(ops.stop_gradient(outputs["z"]))
        through_codes = cost - beta * (score - ops.stop_gradient(score))
        share = ops.softmax(-of_texts(ops.stop_gradient(cost)), axis=0)
        factor = (1.0 - beta) * share + beta * ops.square(share)
        terms["inference_loss"] = ops.sum(factor * of_texts(through_codes), axis=0)
    return terms

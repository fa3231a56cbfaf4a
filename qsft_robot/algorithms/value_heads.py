"""The loss that methods of value heads share."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from qsft_robot.algorithms.log_probs import Metrics, chosen, legal_log_softmax, masked_mean
from qsft_robot.token_data.batch import TokenBatch


def heads_loss(
    q: Float[Tensor, "b n v"],
    v: Float[Tensor, "b n"],
    batch: TokenBatch,
    q_goal: Float[Tensor, "b n"],
    v_term: Float[Tensor, ""],
    conservatism: float,
) -> tuple[Float[Tensor, ""], Metrics]:
    """The squared error of Q of the tokens taken on `q_goal`, the term of V, and with a weight a
    cross entropy of softmax(Q) towards the token taken."""
    mask = batch.token_mask
    q_term = masked_mean((chosen(q, batch.action_ids) - q_goal) ** 2, mask)
    nll = -chosen(legal_log_softmax(q, batch.legal), batch.action_ids)
    cql_term = masked_mean(nll, mask)
    loss = q_term + v_term + conservatism * cql_term
    return loss, {
        "loss/total": loss.detach(),
        "loss/q": q_term.detach(),
        "loss/v": v_term.detach(),
        "loss/cql": cql_term.detach(),
        "q/value_mean": masked_mean(v.detach(), mask),
        "q/target_mean": masked_mean(q_goal, mask),
    }

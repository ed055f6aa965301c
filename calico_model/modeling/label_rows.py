"""Token rows of a project's own labels: a name with a row of its own needs no spelling.

Legend: n labels, D the LLM's width, V vocabulary.
While the rows learn they are parameters of their own. Hooks put them over the frozen tables, so
that a whole table never needs gradients or optimiser state.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from calico_model import prompts
from calico_model.modeling.model import Calico
from calico_model.tokenizer import Tokenizer


class LabelRows(nn.Module):
    """The rows of n labels in the embedding and in the output head."""

    ids: Tensor

    def __init__(self, ids: Sequence[int], inputs: Tensor, outputs: Tensor) -> None:
        """Starts from (n, D) rows of the reserved tokens `ids`."""
        super().__init__()
        self.register_buffer("ids", torch.tensor(ids, dtype=torch.long, device=inputs.device))
        self.inputs = nn.Parameter(inputs.detach().float().clone())
        self.outputs = nn.Parameter(outputs.detach().float().clone())

    @contextmanager
    def over(self, model: Calico) -> Iterator[None]:
        """Lets a model read and write the labels by these rows while the block runs."""
        language = model.language
        place = torch.full((model.config.language.vocab_size,), -1, device=self.ids.device)
        place[self.ids] = torch.arange(len(self.ids), device=self.ids.device)

        def read(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            row = place[args[0]]  # (B, T)
            # Unlike indexing, an embedding adds up its gradients in the same order every time.
            learned = functional.embedding(row.clamp(min=0), self.inputs).to(output.dtype)
            return torch.where((row >= 0)[..., None], learned, output)

        def write(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            learned = (args[0] @ self.outputs.to(args[0].dtype).T).to(output.dtype)
            return output.index_copy(-1, self.ids, learned)

        hooks = []
        if len(self.ids):
            hooks.append(language.model.embed_tokens.register_forward_hook(read))
            hooks.append(language.lm_head.register_forward_hook(write))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def needs_row(label: str, tokenizer: Tokenizer) -> bool:
    """Whether a name has to be spelled: it takes more tokens than it has words."""
    return len(name_tokens(label, tokenizer)) > len(label.split())


def mean_rows(
    labels: Sequence[str], tokenizer: Tokenizer, tables: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Returns the (D,) mean rows of several names in both tables (their mean length is kept)."""
    ids = sorted({token for label in labels for token in name_tokens(label, tokenizer)})
    means = []
    for table in tables:
        rows = table.detach().float()[ids]  # (m, D)
        mean = rows.mean(0)
        length = rows.norm(dim=1).mean()
        means.append(mean * (length / mean.norm().clamp(min=1e-6)) ** 0.5)
    return means[0], means[1]


def name_tokens(label: str, tokenizer: Tokenizer) -> list[int]:
    """Returns the tokens of a name between `<p> the` and `</p>`."""
    return tokenizer.encode(f"{prompts.PHRASE_START} the {label} {prompts.PHRASE_END}")[2:-1]

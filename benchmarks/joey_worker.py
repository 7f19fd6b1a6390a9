"""One contestant of `benchmarks.joey`, in a process of its own: trains over the same batches each time it is told to.

Run by the Python of whichever environment holds its library, so nothing of ours is imported before it is asked for.
It says what it is in a line of JSON, then answers each line of its input with one: seconds, CPU seconds and loss of a pass.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

Arrays = list[tuple[np.ndarray, np.ndarray, np.ndarray]]  # source, its lengths, target with its start, of each batch
Pass = Callable[[], tuple[float, float]]  # seconds, loss per token


def ours(batches: Arrays, given: dict[str, Any]) -> tuple[dict[str, Any], Pass]:
    """Our loop, from fresh weights each time."""
    from dataclasses import replace

    from longshort import __version__
    from longshort.apps.translate.config import Config
    from longshort.apps.translate.model import Batch, Network
    from longshort.apps.translate.task import TranslateTask
    from longshort.cell import Cell
    from longshort.task import Batches
    from longshort.train import Training, train

    config, cell, made = Config(**given["config"]), Cell(), [Batch(*map(torch.from_numpy, b)) for b in batches]

    def model() -> Network:
        return Network(config, cell, given["tokens"], given["tokens"])

    task: Any = SimpleNamespace(config=config, cell=cell, better=(config.metric, "max"), model=model, score=lambda *_: {},
                                batches=lambda *_: Batches(len(made), made.__getitem__), data=dict)  # fmt: skip
    task.loss = lambda network, batch: TranslateTask.loss(task, network, batch)
    how = replace(Training(**given["training"]), epochs=1, evaluate=len(made), bf16=given["bf16"])

    def run() -> tuple[float, float]:
        result = train(task, how, progress=False)
        return result.seconds, result.history[-1]["loss"]

    return {"version": __version__, "parameters": sum(p.numel() for p in model().parameters())}, run


def joey(batches: Arrays, given: dict[str, Any]) -> tuple[dict[str, Any], Pass]:
    """JoeyNMT's own model, batches and training step, and around it what its loop does. Nothing is logged or saved."""
    import logging

    import joeynmt
    from joeynmt.batch import Batch
    from joeynmt.config import parse_train_args
    from joeynmt.model import build_model
    from joeynmt.training import TrainManager
    from joeynmt.vocabulary import Vocabulary

    logging.disable(logging.INFO)
    c, t = given["config"], given["training"]
    special = SimpleNamespace(unk_token="<unk>", pad_token="<pad>", bos_token="<s>", eos_token="</s>", sep_token=None,
                              lang_tags=[], unk_id=0, pad_id=1, bos_id=2, eos_id=3, sep_id=None)  # fmt: skip
    vocabulary = Vocabulary([f"w{k}" for k in range(given["tokens"] - 4)], special)
    embeddings = {"embedding_dim": c["embed"], "scale": True, "dropout": c["dropout_embed"]}
    model = build_model({
        "encoder": {"type": "recurrent", "rnn_type": "lstm", "embeddings": embeddings, "hidden_size": c["hidden"],
                    "bidirectional": True, "dropout": c["dropout"], "num_layers": c["encoder_layers"]},
        "decoder": {"type": "recurrent", "rnn_type": "lstm", "embeddings": embeddings, "hidden_size": c["decode"],
                    "dropout": c["dropout"], "hidden_dropout": c["dropout"], "num_layers": c["decoder_layers"],
                    "input_feeding": given["feed"], "init_hidden": "bridge", "attention": "luong"},
        "tied_embeddings": True, "tied_softmax": True, "initializer": "xavier_uniform", "embed_initializer": "normal",
        "embed_init_weight": 0.05, "bias_initializer": "zeros", "init_rnn_orthogonal": True, "lstm_forget_gate": 1.0,
    }, vocabulary, vocabulary)  # fmt: skip
    model.loss_function = ("crossentropy", c["smoothing"])
    args = parse_train_args({"normalization": "tokens", "optimizer": "adam", "adam_betas": t["betas"], "learning_rate": 1e-3,
                             "label_smoothing": c["smoothing"], "clip_grad_norm": t["grad_clip"], "batch_size": c["tokens"],
                             "batch_type": "token", "early_stopping_metric": "ppl", "scheduling": "exponential"})  # fmt: skip
    device = torch.device("cpu")
    autocast = {"device_type": "cpu", "enabled": given["bf16"], "dtype": torch.bfloat16}
    manager = TrainManager(0, model, Path(mkdtemp(dir=given["scratch"])), device, autocast=autocast, train_args=args)
    swap = np.arange(given["tokens"])
    swap[:2] = 1, 0  # its unknown and its padding
    turned = [tuple(torch.from_numpy(v) for v in (swap[x], lengths, swap[y])) for x, lengths, y in batches]

    def run() -> tuple[float, float]:
        total = tokens = 0.0
        begun = time.perf_counter()
        for x, lengths, y in turned:
            batch = Batch(src=x, src_length=lengths, src_prompt_mask=None, trg=y, trg_prompt_mask=None,
                          indices=torch.arange(len(x)), device=device, pad_index=1, eos_index=3)  # fmt: skip
            loss, _ = manager._train_step(batch)
            total, tokens = total + loss * batch.ntokens, tokens + batch.ntokens
            manager.clip_grad_fun(parameters=model.parameters())
            manager.optimizer.step()
            model.zero_grad()
        return time.perf_counter() - begun, total / tokens

    return {"version": joeynmt.__version__, "parameters": sum(p.numel() for p in model.parameters())}, run


def main() -> None:
    given = json.loads(sys.argv[1])
    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints goes elsewhere
    torch.set_num_threads(given["threads"])
    torch.manual_seed(0)
    with np.load(given["batches"]) as held:
        batches = [(held[f"x{k}"], held[f"n{k}"], held[f"y{k}"]) for k in range(len(held.files) // 3)]
    about, run = {"ours": ours, "joey": joey}[given["who"]](batches, given)
    print(json.dumps(about | {"torch": torch.__version__, "threads": torch.get_num_threads()}), file=told, flush=True)
    for _ in sys.stdin:
        before = time.process_time()
        seconds, loss = run()
        print(json.dumps({"seconds": seconds, "cpu": time.process_time() - before, "loss": loss}), file=told, flush=True)


if __name__ == "__main__":
    main()

"""Golden numbers of text generation: test/golden/generation/{processors,searches}.safetensors and .json, and ends.json.

`processors` holds random scores before and after transformers' logits processors, alone and in the order in which
`generate` applies them; what they make impossible is -1e30. `searches` runs greedy and beam search of transformers
with those processors, and contrastive search as plain Python below, over the OPT models of test/golden/models (run
models.py first). `ends` is what `generate` finds with settings of beginnings and ends. Ids are kept only if slightly disturbed weights give the same.
"""

import json
import sys
import warnings
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the root, so that no file of this folder hides a package

import torch
from safetensors.torch import load_file
from transformers import OPTConfig, OPTForCausalLM
from transformers.generation import logits_process as lp
from transformers.utils import logging

from reference.common import GOLDEN, clear, generator, prepare, write_case

EOS, PAD = 5, 1


# --- processors -------------------------------------------------------------------------------------------------


def processors_of(options: dict, length: int, keep: int = 1) -> list:
    """In the order of `GenerationMixin._get_logits_processor`."""
    found = []
    if "repetition_penalty" in options:
        found.append(lp.RepetitionPenaltyLogitsProcessor(options["repetition_penalty"]))
    if "no_repeat_ngram_size" in options:
        found.append(lp.NoRepeatNGramLogitsProcessor(options["no_repeat_ngram_size"]))
    if "bad_words_ids" in options:
        found.append(lp.NoBadWordsLogitsProcessor(options["bad_words_ids"], EOS))
    if "min_new_tokens" in options:
        found.append(lp.MinNewTokensLengthLogitsProcessor(length, options["min_new_tokens"], EOS))
    if "temperature" in options:
        found.append(lp.TemperatureLogitsWarper(options["temperature"]))
    if "top_k" in options:
        found.append(lp.TopKLogitsWarper(options["top_k"], min_tokens_to_keep=keep))
    if "top_p" in options:
        found.append(lp.TopPLogitsWarper(options["top_p"], min_tokens_to_keep=keep))
    return found


PROCESSOR_ROWS = [
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.7},
    {"no_repeat_ngram_size": 1},
    {"no_repeat_ngram_size": 2},
    {"no_repeat_ngram_size": 3},
    {"no_repeat_ngram_size": 20},
    {"bad_words_ids": [[7], [3, 9], [8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 2]]},
    {"min_new_tokens": 4},
    {"min_new_tokens": 7},
    {"temperature": 0.3},
    {"temperature": 2.5},
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 1000},
    {"top_p": 0.05},
    {"top_p": 0.5},
    {"top_p": 0.95},
    {"top_p": 0.3, "keep": 3},
    {"top_k": 2, "keep": 4},
    {"temperature": 0.7, "top_k": 9, "top_p": 0.8},
    {"temperature": 1.6, "top_k": 12, "top_p": 0.6, "keep": 2},
    {"repetition_penalty": 1.4, "no_repeat_ngram_size": 2, "bad_words_ids": [[4], [9]], "min_new_tokens": 6}
    | {"temperature": 0.8, "top_k": 10, "top_p": 0.9},
]


def make_processors() -> None:
    source = generator(11)
    rows, vocab, prompt, new = 4, 24, 6, 5
    # Few ids, so that sequences of them repeat.
    ids = torch.randint(2, 11, (rows, prompt + new), generator=source)
    ids[0, -2:] = ids[0, 2:4]  # the first two of three
    ids[1, -1] = 3  # the first half of a forbidden pair
    scores = torch.randn(rows, vocab, generator=source) * 3
    scores[2, 4:9] = scores[2, 4]  # equals at the border of top k
    tensors, listed = {"inputs/ids": ids, "inputs/scores": scores}, []
    for number, row in enumerate(PROCESSOR_ROWS):
        options = {key: value for key, value in row.items() if key != "keep"}
        found = scores.clone()
        for process in processors_of(options, prompt, row.get("keep", 1)):
            found = process(ids, found)
        idle = ({"min_new_tokens": 4}, {"top_k": 1000}, {"no_repeat_ngram_size": 20})
        assert torch.equal(found, scores) == (row in idle), row
        name = f"processed.{number}"
        tensors[f"outputs/{name}"] = found.masked_fill(torch.isinf(found), -1e30)
        listed.append({"name": name, "options": options, "keep": row.get("keep", 1)})
    info = {"prompt_length": prompt, "eos_token_id": EOS, "runs": listed}
    write_case("generation", "processors", tensors, info)


# --- searches ---------------------------------------------------------------------------------------------------


def settings() -> list[dict]:
    greedy = {"num_beams": 1}
    beams = {"num_beams": 4, "early_stopping": False, "length_penalty": 1.0}
    rows = [
        greedy | {"no_repeat_ngram_size": 1},
        greedy | {"no_repeat_ngram_size": 2, "repetition_penalty": 0.6},
        greedy | {"no_repeat_ngram_size": 2, "repetition_penalty": 1.3, "min_new_tokens": 9},
        greedy | {"bad_words": 1, "min_new_tokens": 6},
        beams | {"no_repeat_ngram_size": 1, "num_return_sequences": 3},
        beams | {"no_repeat_ngram_size": 2, "repetition_penalty": 0.7, "num_return_sequences": 4},
        beams | {"no_repeat_ngram_size": 2, "repetition_penalty": 1.3, "min_new_tokens": 8, "num_return_sequences": 2},
        beams | {"bad_words": 2, "min_new_tokens": 5, "length_penalty": 0.0},
    ]
    rows = [{"max_new_tokens": 12, **row} for row in rows]
    contrastive = [
        {"penalty_alpha": 0.6, "top_k": 4},
        {"penalty_alpha": 0.3, "top_k": 6, "min_new_tokens": 6},
        {"penalty_alpha": 0.8, "top_k": 3, "repetition_penalty": 1.2},
        {"penalty_alpha": 0.6, "top_k": 5, "no_repeat_ngram_size": 2},
    ]
    return rows + [{"max_new_tokens": 10, **row} for row in contrastive]


def contrastive_search(model, ids, mask, embeds, options: dict, eos: int) -> list[list[int]]:
    """Su et al. 2022, one row at a time, without a cache: every candidate is read behind everything before it."""
    found = []
    for row in range(mask.shape[0]):
        real = mask[row].bool()
        start = model.get_input_embeddings()(ids[row][real]) if embeds is None else embeds[row][real]
        prompt = ids[row : row + 1] if embeds is None else torch.zeros(1, 0, dtype=torch.int64)
        new: list[int] = []

        def read(tokens: list[int]):
            after = model.get_input_embeddings()(torch.tensor(tokens, dtype=torch.int64))
            out = model(inputs_embeds=torch.cat([start, after])[None], output_hidden_states=True)
            return out.logits[0, -1], out.hidden_states[-1][0]

        while len(new) < options["max_new_tokens"] and eos not in new[-1:]:
            logits, states = read(new)
            seen = torch.cat([prompt, torch.tensor([new], dtype=torch.int64)], dim=1)
            scores = logits[None]
            only = {key: value for key, value in options.items() if key not in ("top_k", "penalty_alpha")}
            for process in processors_of(only, prompt.shape[1]):
                if hasattr(process, "eos_token_id"):
                    process.eos_token_id = torch.tensor([eos])
                scores = process(seen, scores)
            probabilities, tokens = scores[0].softmax(-1).topk(options["top_k"])
            values = []
            for probability, token in zip(probabilities, tokens.tolist()):
                _, extended = read([*new, token])
                likeness = torch.nn.functional.cosine_similarity(extended[-1][None], states, dim=-1).max()
                values.append((1 - options["penalty_alpha"]) * probability - options["penalty_alpha"] * likeness)
            new.append(tokens[torch.stack(values).argmax()].item())
        found.append(new)
    return found


def log_probabilities(model, arguments: dict, new: list[int], row: int) -> torch.Tensor:
    """What the model itself gives to each new token behind the prompt of one row."""
    table = model.get_input_embeddings()
    start = arguments["inputs_embeds"][row] if "inputs_embeds" in arguments else table(arguments["input_ids"][row])
    start = start[arguments["attention_mask"][row].bool()]
    whole = torch.cat([start, table(torch.tensor(new))])
    logits = model(inputs_embeds=whole[None]).logits[0, len(start) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(new)[:, None])[:, 0]


def golden_opt(name: str):
    """The model, its end id, and its prompts."""
    folder = GOLDEN / "models"
    info = json.loads((folder / f"{name}.json").read_text())
    stored = load_file(str(folder / f"{name}.safetensors"))
    eos = info["generate_defaults"]["eos_token_id"]
    config = OPTConfig(**info["config"])
    model = OPTForCausalLM._from_config(config, attn_implementation="eager").eval()
    weights = {key.removeprefix("weights/"): value for key, value in stored.items() if key.startswith("weights/")}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    model.tie_weights()
    model.generation_config.eos_token_id = eos
    prompts = {
        "left": {"input_ids": stored["inputs/left_ids"], "attention_mask": stored["inputs/left_mask"]},
        "embeds": {"inputs_embeds": stored["inputs/embeds"], "attention_mask": stored["inputs/embeds_mask"]},
    }
    return model, eos, prompts


@torch.no_grad()
def make_searches() -> None:
    tensors, listed = {}, []
    for name in ("opt-1", "opt-2", "opt-3", "opt-4"):
        model, eos, prompts = golden_opt(name)
        exact = {key: value.clone() for key, value in model.state_dict().items()}

        def search(options: dict, arguments: dict):
            """New ids without what follows the end, for each prompt its sequences; scores of beams."""
            if "penalty_alpha" in options:
                rows = contrastive_search(
                    model,
                    arguments.get("input_ids"),
                    arguments["attention_mask"],
                    arguments.get("inputs_embeds"),
                    options,
                    eos,
                )
                return rows, None
            options = dict(options)
            if "bad_words" in options:
                size = options.pop("bad_words")
                options["bad_words_ids"] = bad_words[size]
            result = model.generate(
                **arguments,
                **options,
                do_sample=False,
                eos_token_id=eos,
                pad_token_id=PAD,
                return_dict_in_generate=True,
                output_scores=True,
            )
            before = arguments["input_ids"].shape[1] if "input_ids" in arguments else 0
            rows = [row[before:].tolist() for row in result.sequences]
            rows = [row[: row.index(eos) + 1] if eos in row else row for row in rows]
            longest = max(len(row) for row in rows)
            # Nothing but padding comes after a finished row.
            assert all(row[-1] == eos or len(row) == longest for row in rows)
            return rows, getattr(result, "sequences_scores", None)

        for prompt, arguments in prompts.items():
            bad_words = {}
            plain, _ = search({"max_new_tokens": 12, "num_beams": 1}, arguments)
            words = [token for row in plain for token in row if token != eos]
            bad_words[1] = [[words[1]], [words[-1]]]
            bad_words[2] = [row[:2] for row in plain if len(row) > 2] + [[words[-1]]]
            for options in settings():
                try:
                    rows, scores = search(options, arguments)
                    for trial in range(3):
                        noise = generator(trial)
                        for key, value in sorted(model.named_parameters()):
                            value.copy_(exact[key] * (1 + 2e-5 * torch.randn(value.shape, generator=noise)))
                        other, _ = search(options, arguments)
                        model.load_state_dict(exact)
                        if other != rows:
                            raise RuntimeError("the ids depend on rounding")
                except (RuntimeError, AssertionError) as reason:
                    model.load_state_dict(exact)
                    print(f"  {name} {prompt} {options}: left out ({reason})")
                    continue
                run = f"run.{len(listed)}"
                count = options.get("num_return_sequences", 1)
                shown = dict(options)
                if "bad_words" in shown:
                    shown["bad_words_ids"] = bad_words[shown.pop("bad_words")]
                listed.append({"name": run, "model": name, "prompt": prompt, "options": shown, "ids": rows})
                own = [log_probabilities(model, arguments, row, n // count) for n, row in enumerate(rows)]
                tensors[f"outputs/{run}.token_log_probabilities"] = torch.cat(own)
                if scores is not None:
                    tensors[f"outputs/{run}.scores"] = scores
    write_case("generation", "searches", tensors, {"runs": listed})
    kinds = {key: sum(key in run["options"] for run in listed) for key in ("penalty_alpha", "no_repeat_ngram_size")}
    assert kinds["penalty_alpha"] >= 12 and kinds["no_repeat_ngram_size"] >= 20, kinds


# --- ends and lengths -------------------------------------------------------------------------------------------


def end_requests(first: int) -> list[dict]:
    """What a generation_config.json may ask of beginnings and ends, where greedy search would end at once."""
    rows = [
        {"min_new_tokens": 0},
        {"min_new_tokens": 1},
        {"min_new_tokens": 3},
        {"forced_eos_token_id": 7, "suppress_tokens": [first]},
        {"suppress_tokens": [first, 9]},
        {"begin_suppress_tokens": [first, 11]},
        {"begin_suppress_tokens": [first], "min_new_tokens": 2, "forced_eos_token_id": [first]},
    ]
    beams = {"num_beams": 4, "early_stopping": False, "length_penalty": 1.0}
    return [{"max_new_tokens": 5, **row, **search} for row in rows for search in ({"num_beams": 1}, beams)]


@torch.no_grad()
def make_ends() -> None:
    """`ends`: what searches find where the end of a text is the likeliest first token of a prompt."""
    listed = []
    for name in ("opt-1", "opt-2", "opt-3", "opt-4"):
        model, _, prompts = golden_opt(name)
        exact = {key: value.clone() for key, value in model.state_dict().items()}
        for prompt, arguments in prompts.items():

            def search(options: dict, end: int) -> list[list[int]]:
                result = model.generate(**arguments, **options, do_sample=False, eos_token_id=end, pad_token_id=PAD)
                before = arguments["input_ids"].shape[1] if "input_ids" in arguments else 0
                rows = [row[before:].tolist() for row in result]
                return [row[: row.index(end) + 1] if end in row else row for row in rows]

            first = search({"max_new_tokens": 1, "num_beams": 1}, PAD)[0][0]
            for options in end_requests(first):
                rows = search(options, first)
                stable = True
                for trial in range(3):
                    noise = generator(trial)
                    for key, value in sorted(model.named_parameters()):
                        value.copy_(exact[key] * (1 + 2e-5 * torch.randn(value.shape, generator=noise)))
                    stable = stable and search(options, first) == rows
                    model.load_state_dict(exact)
                if not stable:
                    print(f"  {name} {prompt} {options}: left out (the ids depend on rounding)")
                    continue
                listed.append({"model": name, "prompt": prompt, "end": first, "options": options, "ids": rows})
    greedy = [run for run in listed if run["options"]["num_beams"] == 1]
    assert any(run["ids"][0] == [run["end"]] for run in greedy if run["options"].get("min_new_tokens") == 0)
    assert all(run["ids"][0][0] != run["end"] for run in greedy if run["options"].get("min_new_tokens") == 1)
    path = GOLDEN / "generation" / "ends.json"
    path.write_text("[\n" + ",\n".join("  " + json.dumps(run) for run in listed) + "\n]\n")


def main() -> None:
    prepare()
    logging.set_verbosity_error()
    warnings.filterwarnings("ignore")
    clear("generation")
    make_processors()
    make_searches()
    make_ends()


if __name__ == "__main__":
    main()

"""Times a BLIP-2 checkpoint in transformers on the CPU, as the peer of bench/inference.ts.

No file is made. Options: --folder MODEL, --precision bf16|fp32, --threads 2, --pictures 3, --tokens 8. The work is that
of bench/inference-child.ts: a picture of made-up numbers to the soft prompt; the soft prompt and eight words to the first
token; then one token after the other, greedily. Prints one line of JSON: load, picture, prompt, token (seconds, medians
after one untimed turn), cpu (processor seconds of the last three), peakBytes (highest resident memory of this process), versions.
"""

import argparse
import json
import resource
import statistics
import sys
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the root, so that no file of this folder hides a package

import torch
import transformers

PROMPT = [2, 300, 301, 302, 303, 304, 305, 306]


def timed(work):
    """((seconds on the clock, processor seconds of all threads), result)"""
    start, cpu = time.perf_counter(), time.process_time()
    result = work()
    return (time.perf_counter() - start, time.process_time() - cpu), result


def medians(seconds):
    return tuple(statistics.median(column) for column in zip(*seconds))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", required=True)
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pictures", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=8)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    transformers.utils.logging.disable_progress_bar()
    dtype = torch.bfloat16 if args.precision == "bf16" else torch.float32

    load, model = timed(
        lambda: transformers.Blip2ForConditionalGeneration.from_pretrained(args.folder, dtype=dtype).eval()
    )
    side = model.config.vision_config.image_size
    pixels = torch.sin(torch.arange(3 * side * side) * 0.37).reshape(1, 3, side, side).to(dtype)

    def look():
        seen = model.vision_model(pixel_values=pixels).last_hidden_state
        asked = model.qformer(query_embeds=model.query_tokens.to(dtype), encoder_hidden_states=seen).last_hidden_state
        return model.language_projection(asked.to(dtype))

    language = model.language_model
    with torch.inference_mode():
        soft = look()  # untimed
        pictures = [timed(look)[0] for _ in range(args.pictures)]
        ids = torch.tensor([PROMPT])

        def read():
            embedded = torch.cat([soft, language.get_input_embeddings()(ids)], dim=1)
            mask = torch.ones(embedded.shape[:2], dtype=torch.long)
            out = language(inputs_embeds=embedded, attention_mask=mask, use_cache=True, logits_to_keep=1)
            return out, mask

        prompts, tokens = [], []
        for turn in range(2):
            seconds, (out, mask) = timed(read)
            if turn > 0:
                prompts.append(seconds)
            for _ in range(args.tokens if turn > 0 else 1):
                token = out.logits[:, -1].argmax(-1, keepdim=True)
                mask = torch.cat([mask, torch.ones(1, 1, dtype=torch.long)], dim=1)
                seconds, out = timed(
                    lambda: language(
                        input_ids=token, attention_mask=mask, past_key_values=out.past_key_values, use_cache=True
                    )
                )
                if turn > 0:
                    tokens.append(seconds)

    parts = {"picture": medians(pictures), "prompt": medians(prompts), "token": medians(tokens)}
    line = {
        "load": load[0],
        **{part: clock for part, (clock, _) in parts.items()},
        "cpu": {part: cpu for part, (_, cpu) in parts.items()},
        "peakBytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()

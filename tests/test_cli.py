"""The command line: what it prints, where, and how it ends."""

import csv
import io
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


def json_of(result: tuple[int, str, str]) -> Any:
    code, out, err = result
    assert code == 0, err
    return json.loads(out)


SMALL = [
    "--epochs=1",
    "--set=training.jit_compile=false",
    "--batch-size=16",
    "--set=model.encoder_units=[8,16]",
    "--set=model.expander_filters=[16,8]",
    "--set=model.head_units=12",
    "--set=model.head_layer_normalization=false",
    "--set=model.latent_size=4",
]


def test_train_evaluate_export_verify_sample_is_one_path(
    kvae: Any, corpus_file: Path, tmp_path: Path
) -> None:
    run, bundle = tmp_path / "run", tmp_path / "run" / "bundle"
    code, out, err = kvae("train", "--data", corpus_file, "--out", run, *SMALL)
    assert code == 0, err
    assert "bits, end marks included" in out
    assert f"export {run}" in out
    assert "val_elbo" in err

    evaluated = json_of(kvae("evaluate", run, "--json"))
    assert evaluated["elbo"] == pytest.approx(evaluated["reconstruction"] + evaluated["kl"])

    report = json.loads((run / "report" / "report.json").read_text(encoding="utf-8"))
    (run / "report" / "report.json").write_text(json.dumps({**report, "temperature": 0.7}))
    code, out, err = kvae("export", run, bundle)
    assert code == 0, err
    assert "--no-map leaves them out" in err
    stages = [line.split(" s  ") for line in err.splitlines() if " s  " in line]
    assert [stage.split()[0] for _, stage in stages] == ["building", "comparing", "writing", "done"]
    seconds = [int(number) for number, _ in stages]
    assert seconds == sorted(seconds)
    assert json.loads((bundle / "map.json").read_text(encoding="utf-8"))["points"]["text"]
    assert "greedy decoding equal in 207 of 207 rows" in out  # 200 of the prior, 7 held-out texts

    code, out, err = kvae("verify", bundle)
    assert code == 0, err
    assert "largest logit difference against Keras" in out
    assert "recorded at export" not in out
    assert (
        "recorded at export" in kvae("verify", shutil.copytree(bundle, tmp_path / "elsewhere"))[1]
    )

    sampled = kvae("sample", bundle, "-n", 4, "--seed", 7)
    assert len(sampled[1].splitlines()) == 4
    assert kvae("sample", bundle, "-n", 4, "--seed", 7, "--temperature", 0.7) == sampled
    assert "0.7 unless another is given" in kvae("info", bundle)[1]


@pytest.mark.slow
def test_export_writes_a_saved_model_on_request_and_evaluate_reads_other_texts(
    kvae: Any, run_folder: Path, corpus_file: Path, tmp_path: Path
) -> None:
    code, _, err = kvae("export", run_folder, tmp_path / "b", "--saved-model", tmp_path / "saved")
    assert code == 0, err
    assert (tmp_path / "saved" / "saved_model.pb").is_file()
    assert kvae("evaluate", run_folder, "--data", corpus_file)[0] == 0


def test_sample_prints_the_same_text_twice_row_by_row_and_on_any_threads(
    kvae: Any, bundle_folder: Path
) -> None:
    expected = kvae("sample", bundle_folder, "-n", 10, "--seed", 7)
    assert expected[0] == 0
    assert kvae("sample", bundle_folder, "-n", 10, "--seed", 7) == expected
    for threads in (1, 2):
        assert (
            kvae("sample", bundle_folder, "-n", 10, "--seed", 7, "--threads", threads) == expected
        )
    rows = [
        kvae("sample", bundle_folder, "-n", 1, "--seed", 7, "--first-row", row)[1]
        for row in (0, 4, 9)
    ]
    lines = expected[1].splitlines(keepends=True)
    assert rows == [lines[row] for row in (0, 4, 9)]


def test_info_says_what_the_last_columns_of_a_labelled_code_are() -> None:
    from kvae.commands.info import latent_line

    latent = {"kind": "dense", "size": 7, "prior": "standard", "attributes": ["old", "new"]}
    assert "5 dimensions, then 2 columns for the label, one for each" in latent_line(latent)
    assert "columns" not in latent_line({**latent, "attributes": []})


def test_sample_tells_the_seed_it_drew_on_standard_error(kvae: Any, bundle_folder: Path) -> None:
    _, out, err = kvae("sample", bundle_folder, "-n", 5)
    seed = err.split()[-1]
    assert kvae("sample", bundle_folder, "-n", 5, "--seed", seed)[1] == out


def test_json_is_one_object_and_nothing_else(
    kvae: Any, bundle_folder: Path, corpus_file: Path
) -> None:
    samples = json_of(kvae("sample", bundle_folder, "-n", 3, "--json"))["samples"]
    assert [set(sample) for sample in samples] == [
        {"text", "seed", "row", "log_probability", "finished", "attribute"}
    ] * 3
    pairs = json_of(kvae("reconstruct", bundle_folder, corpus_file, "--json"))["reconstructions"]
    assert [pair["text"] for pair in pairs] == corpus_file.read_text().split()
    assert (
        len(json_of(kvae("encode", bundle_folder, corpus_file, "--json"))["codes"][0]["code"]) == 4
    )
    assert (
        len(
            json_of(kvae("interpolate", bundle_folder, "KAMI", "TORU", "--steps", 5, "--json"))[
                "interpolation"
            ]
        )
        == 5
    )
    assert json_of(kvae("info", bundle_folder, "--json"))["format"] == "kvae-bundle"
    parity = json_of(kvae("verify", bundle_folder, "--json"))["parity"]
    assert (parity["greedy_rows_equal"], parity["held_out_rows"]) == (207, 7)
    assert {"hybrid-lstm", "cnn"} <= {
        preset["name"] for preset in json_of(kvae("presets", "--json"))["presets"]
    }
    assert [corpus["name"] for corpus in json_of(kvae("data", "list", "--json"))["corpora"]] == [
        "unicode-names",
        "sines",
        "ptb-char",
        "ptb-word",
        "tweets",
        "moses",
        "moses-selfies",
    ]


def test_score_puts_the_oddest_line_first(kvae: Any, bundle_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text(
        "KAMITO\nRUNEKA\nKA%%&&\nKAMITO\nMITORU\n" + "KAMI" * 30 + "\n"
    )
    command = ["score", bundle_folder, tmp_path / "names.txt"]
    heading, first, *rest = kvae(*command)[1].splitlines()
    assert heading.split() == ["bound", "bits/char", "times", "first", "text"]
    assert first.split()[2:] == ["1", "3", "KA%%&&"]
    assert len(rest) == 4
    scores = json_of(kvae(*command, "--json", "-n", 2, "--by", "bound"))["scores"]
    assert [score["bound"] for score in scores] == sorted(
        (score["bound"] for score in scores), reverse=True
    )
    assert set(scores[0]) == {
        "places",
        "text",
        "bound",
        "reconstruction",
        "kl",
        "bits_per_character",
        "nats",
    }
    assert next(s for s in json_of(kvae(*command, "--json"))["scores"] if s["text"] == "KAMITO")[
        "places"
    ] == [1, 4]
    assert kvae(*command, "--too-long", "refuse")[0] == 4


def test_a_stream_prints_the_sampled_text(kvae: Any, bundle_folder: Path) -> None:
    expected = kvae("sample", bundle_folder, "-n", 1, "--seed", 7, "--first-row", 3)
    assert kvae("stream", bundle_folder, "--seed", 7, "--row", 3) == expected
    found = json_of(kvae("stream", bundle_folder, "--seed", 7, "--row", 3, "--json"))
    assert "".join(found["pieces"]) == found["text"] == expected[1].strip()
    assert kvae("stream", bundle_folder)[2].startswith("seed ")


def test_walks_through_latent_space(
    kvae: Any, bundle_folder: Path, corpus_file: Path, sampler: Any
) -> None:
    assert json_of(kvae("variations", bundle_folder, "KAMI", "-n", 3, "--json"))[
        "variations"
    ] == sampler.variations("KAMI", 3)
    nearest = json_of(kvae("neighbours", bundle_folder, "KAMITO", corpus_file, "-n", 2, "--json"))[
        "neighbours"
    ]
    assert (nearest[0]["text"], len(nearest)) == ("KAMITO", 2)
    sums = ["arithmetic", bundle_folder, "--plus", "KAMI", "RUNE", "--minus", "RUNE"]
    assert kvae(*sums)[1].strip() == sampler.reconstruct("KAMI")[0]
    assert kvae("interpolate", bundle_folder, "KAMI", "TORU", "--path", "spherical")[0] == 0


def test_neighbours_take_text_and_file_in_either_order(
    kvae: Any, bundle_folder: Path, corpus_file: Path
) -> None:
    usual = kvae("neighbours", bundle_folder, "KAMITO", corpus_file)
    code, out, err = kvae("neighbours", bundle_folder, corpus_file, "KAMITO")
    assert (code, out) == usual[:2]
    assert "looking for the neighbours of 'KAMITO'" in err
    assert "neighbours of" not in usual[2]
    code, _, err = kvae("neighbours", bundle_folder, "KAMITO", "missing.txt")
    assert code == 4
    assert "missing.txt: no such file" in err


@pytest.mark.parametrize("command", ["encode", "reconstruct", "score"])
def test_texts_may_be_arguments(
    kvae: Any, bundle_folder: Path, tmp_path: Path, command: str
) -> None:
    (tmp_path / "texts.txt").write_text("KAMITO\nRUNE\n")
    from_file = kvae(command, bundle_folder, tmp_path / "texts.txt", "--json")
    assert from_file[0] == 0
    assert kvae(command, bundle_folder, "--json", "--text", "KAMITO", "RUNE")[:2] == from_file[:2]
    code, _, err = kvae(command, bundle_folder, tmp_path / "texts.txt", "--text", "KAMITO")
    assert code == 2
    assert "--text takes the place of FILE: give it without FILE" in err
    code, _, err = kvae(command, bundle_folder, "KAMITO")
    assert code == 4
    assert "KAMITO: no such file; give texts themselves with --text" in err


@pytest.mark.slow
def test_int8_bundles_say_what_they_changed(kvae: Any, run_folder: Path, tmp_path: Path) -> None:
    code, out, err = kvae("export", run_folder, tmp_path / "small", "--int8", "--no-map")
    assert code == 0, err
    assert not (tmp_path / "small" / "map.json").exists()
    assert "top-1 agreement with float32" in out
    code, out, err = kvae("verify", tmp_path / "small", "--against", run_folder)
    assert code == 0, err
    assert "int8" in out
    record = json_of(kvae("info", tmp_path / "small", "--json"))["quantization"]
    assert abs(record["bound"] - record["bound_in_float32"]) < 0.01 * record["bound_in_float32"]


@pytest.mark.slow
def test_weights_for_latency_say_that_onnxruntime_alone_runs_them(
    kvae: Any, run_folder: Path, tmp_path: Path
) -> None:
    target = tmp_path / "quick"
    code, out, err = kvae("export", run_folder, target, "--weights", "int8-latency", "--no-map")
    assert code == 0, err
    assert "int8-latency" in out
    assert json_of(kvae("info", target, "--json"))["quantization"]["runtime"] == "onnxruntime"
    code, _, err = kvae("verify", target, "--runtime", "openvino")
    assert code == 2
    assert "which only onnxruntime runs, not openvino" in err


def test_reconstruct_reads_standard_input_and_prints_pairs(
    kvae: Any, bundle_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import io
    import sys

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"KAMITO\nRUNE\n")))
    code, out, _ = kvae("reconstruct", bundle_folder)
    assert code == 0
    assert [line.split("\t")[0] for line in out.splitlines()] == ["KAMITO", "RUNE"]


TABLE = 'uid,name,note\n7,KAMITO,"a b"\n8,,"c"\n9,RUNE,"d""e"\n9b,KAMITO,f\n'


@pytest.fixture
def table_file(tmp_path: Path) -> Path:
    """Names with identifiers in a table: one is missing, one occurs twice."""
    (tmp_path / "names.csv").write_text(TABLE)
    return tmp_path / "names.csv"


def test_commands_read_a_column_of_a_table(
    kvae: Any, bundle_folder: Path, table_file: Path, sampler: Any
) -> None:
    column = ["--column", "name"]
    code, out, err = kvae("encode", bundle_folder, table_file, *column)
    assert (code, len(out.splitlines())) == (0, 3)
    assert err.splitlines() == [f"{table_file}: 1 blank texts skipped"]
    assert kvae("encode", bundle_folder, table_file, "--column", 2)[1] == out
    pairs = kvae("reconstruct", bundle_folder, table_file, *column)[1].splitlines()
    assert [pair.split("\t")[0] for pair in pairs] == ["KAMITO", "RUNE", "KAMITO"]
    code, out, err = kvae(
        "encode", bundle_folder, table_file, "--format", "lines", "--unknown=replace"
    )
    assert (code, len(out.splitlines())) == (0, 5)
    assert "looks like a table" in err
    code, _, err = kvae("encode", bundle_folder, table_file, "--column", "nme")
    assert (code, "did you mean 'name'?" in err) == (4, True)


def test_identifiers_are_copied_to_the_entries(
    kvae: Any, bundle_folder: Path, table_file: Path
) -> None:
    options = [table_file, "--column=name", "--id-column=uid", "--json"]
    codes = json_of(kvae("encode", bundle_folder, *options))["codes"]
    assert [entry["id"] for entry in codes] == ["7", "9", "9b"]
    pairs = json_of(kvae("reconstruct", bundle_folder, *options))["reconstructions"]
    assert [(pair["id"], pair["text"]) for pair in pairs][1:] == [("9", "RUNE"), ("9b", "KAMITO")]
    scores = json_of(kvae("score", bundle_folder, *options))["scores"]
    assert {tuple(score["id"]): score["places"] for score in scores} == {
        ("7", "9b"): [1, 3],
        ("9",): [2],
    }
    found = json_of(kvae("neighbours", bundle_folder, "KAMITO", *options))["neighbours"]
    assert [entry["id"] for entry in found] == ["7", "9b", "9"]
    assert "id" not in json_of(kvae("encode", bundle_folder, *options[:2], "--json"))["codes"][0]


def test_csv_has_a_header_and_a_row_for_each_text(
    kvae: Any, bundle_folder: Path, table_file: Path, sampler: Any
) -> None:
    def rows(command: str, *more: object) -> list[dict[str, str]]:
        code, out, err = kvae(command, bundle_folder, *more, table_file, *options, "--csv")
        assert code == 0, err
        return list(csv.DictReader(io.StringIO(out, newline="")))

    options = ["--column=name", "--id-column=uid"]
    codes = rows("encode")
    assert list(codes[0]) == ["id", "text", "code_1", "code_2", "code_3", "code_4"]
    assert [float(codes[1][f"code_{n}"]) for n in (1, 2, 3, 4)] == pytest.approx(
        sampler.encode(["RUNE"])[0].tolist(), abs=1e-5
    )
    pairs = rows("reconstruct")
    assert list(pairs[0]) == ["id", "text", "reconstruction", "equal"]
    assert {pair["equal"] for pair in pairs} <= {"true", "false"}
    scores = rows("score")
    assert list(scores[0])[:4] == ["id", "place", "text", "bound"]
    assert sorted((score["id"], score["place"]) for score in scores) == [
        ("7", "1"),
        ("9", "2"),
        ("9b", "3"),
    ]
    assert list(rows("neighbours", "KAMITO")[0]) == ["id", "text", "distance"]
    options = ["--column=name"]
    assert list(rows("encode")[0])[:2] == ["text", "code_1"]
    code, _, err = kvae("encode", bundle_folder, table_file, "--csv", "--json")
    assert (code, "not allowed with argument" in err) == (2, True)


def test_csv_quotes_what_needs_it(kvae: Any, bundle_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"name": 'KA,"MI\nTO'}))
    code, out, _ = kvae(
        "encode", bundle_folder, tmp_path / "a.jsonl", "--csv", "--unknown", "replace"
    )
    assert code == 0
    assert [row[0] for row in csv.reader(io.StringIO(out, newline=""))] == ["text", 'KA,"MI\nTO']


def test_headers_of_fasta_are_identifiers(kvae: Any, bundle_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.fasta").write_text(">one\nKAMI\nTO\n>empty\n>two\nRUNE\n")
    code, out, err = kvae("encode", bundle_folder, tmp_path / "a.fasta", "--json")
    entries = json.loads(out)["codes"]
    assert [(entry["id"], entry["text"]) for entry in entries] == [
        ("one", "KAMITO"),
        ("two", "RUNE"),
    ]
    assert (code, "1 blank texts skipped" in err) == (0, True)


def test_overwrite_removes_a_run_and_nothing_else(
    kvae: Any, corpus_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    code, _, err = kvae(
        "train", "--data", corpus_file, "--out", tmp_path / "photos", "--overwrite", *SMALL
    )
    assert (code, (tmp_path / "photos" / "cat.jpg").exists()) == (2, True)
    assert "is not a run folder" in err


def test_overwrite_keeps_the_earlier_run_until_the_new_one_can_start(
    kvae: Any, run_folder: Path, tmp_path: Path
) -> None:
    earlier = shutil.copytree(run_folder, tmp_path / "earlier")
    assert (
        kvae("train", "--data", tmp_path / "nowhere.txt", "--out", earlier, "--overwrite")[0] == 4
    )
    assert (earlier / "model.keras").is_file()


@dataclass(frozen=True)
class Places:
    """Where a bad command finds things: an empty folder, a run, its bundle and a good corpus."""

    tmp: Path
    run: Path
    bundle: Path
    corpus: Path

    def file(self, content: bytes) -> Path:
        path = self.tmp / "input.txt"
        path.write_bytes(content)
        return path

    def train(self, *arguments: object) -> list[object]:
        return ["train", "--out", self.tmp / "new", *arguments]

    def spoilt(self, name: str, change: Callable[[bytes], bytes]) -> Path:
        """A copy of the bundle with one file changed."""
        copy = shutil.copytree(self.bundle, self.tmp / "spoilt")
        (copy / name).write_bytes(change((copy / name).read_bytes()))
        return copy


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


NEWER = b'{"format": "kvae-bundle", "format_version": 99}'
FOREIGN = b'{"name": "web app"}'
LONG = b"1\n2\n3\n4\n5\n6\n7\n8\n9\n" + b"x" * 99

BAD: dict[str, tuple[Callable[[Places], list[object]], int, str]] = {
    "a missing file": (
        lambda at: at.train("--data", at.tmp / "none.txt"),
        4,
        "no such file or corpus",
    ),
    "an empty file": (lambda at: at.train("--data", at.file(b"")), 4, "has no text"),
    "not UTF-8": (
        lambda at: at.train("--data", at.file(b"gut\nsch\xf6n\n")),
        4,
        "line 2 is not UTF-8",
    ),
    "a single line": (
        lambda at: at.train("--data", at.file(b"one line\n")),
        4,
        "at least two different lines",
    ),
    "long lines": (
        lambda at: at.train("--data", at.file(LONG), "--set", "model.length=32"),
        4,
        "data.too_long=cut",
    ),
    "an unknown preset": (
        lambda at: at.train("--preset", "hybrid-lsmt"),
        2,
        "did you mean 'hybrid-lstm'",
    ),
    "an unknown key": (
        lambda at: at.train("--set", "model.latnt_size=3"),
        2,
        "did you mean 'model.latent_size'",
    ),
    "a key without value": (lambda at: at.train("--set", "model.latent_size"), 2, "KEY=VALUE"),
    "an impossible value": (
        lambda at: at.train("--set", "model.latent_size=-3"),
        2,
        "between 1 and 65536, got -3",
    ),
    "a folder that exists": (
        lambda at: ["train", "--data", at.corpus, "--out", at.run],
        2,
        "exists already",
    ),
    "no run": (lambda at: ["evaluate", at.tmp], 3, "not a run folder"),
    "a missing bundle": (lambda at: ["sample", at.tmp / "none"], 3, "no such bundle"),
    "a truncated bundle": (
        lambda at: ["sample", at.spoilt("encoder.onnx", lambda it: it[:-1])],
        3,
        "encoder.onnx: truncated",
    ),
    "a newer bundle": (
        lambda at: ["sample", at.spoilt("manifest.json", lambda it: NEWER)],
        3,
        "bundle format 99",
    ),
    "a flipped byte": (
        lambda at: ["verify", at.spoilt("sampler.onnx", flipped)],
        3,
        "sampler.onnx: damaged",
    ),
    "not ours": (
        lambda at: ["info", at.spoilt("manifest.json", lambda it: FOREIGN)],
        3,
        "not the manifest of a kvae bundle",
    ),
    "an unknown character": (
        lambda at: ["interpolate", at.bundle, "KAMI", "mi"],
        4,
        "characters the model never saw",
    ),
    "a bad temperature": (
        lambda at: ["sample", at.bundle, "--temperature", "-1"],
        2,
        "temperature must be from 0.001",
    ),
    "a deadline that passes": (
        lambda at: ["sample", at.bundle, "-n", 1_000_000, "--json", "--deadline", 0.2],
        5,
        "deadline: not done in 0.2 seconds",
    ),
    "a deadline of nothing": (
        lambda at: ["sample", at.bundle, "--deadline", 0],
        2,
        "deadline must be a number",
    ),
    "a bundle that exists": (lambda at: ["export", at.run, at.bundle], 2, "exists already"),
    "an unknown study": (lambda at: ["reproduce", "toys"], 2, "invalid choice"),
    "an unknown row": (
        lambda at: ["reproduce", "toy", "--out", at.tmp / "new", "--rows", "lvae"],
        2,
        "did you mean",
    ),
    "rows of everything": (
        lambda at: ["reproduce", "all", "--rows", "lvae-3"],
        2,
        "belongs to one study",
    ),
    "a page of a study": (
        lambda at: ["reproduce", "toy", "--page", at.tmp / "page.md"],
        2,
        "--book FOLDER",
    ),
    "a book of systems": (lambda at: ["reproduce", "systems", "--book", at.tmp], 2, "--page FILE"),
    "an unknown command": (lambda at: ["smaple", at.bundle], 2, "invalid choice"),
}


EVALUATION = {
    "texts",
    "positions",
    "reconstruction",
    "kl",
    "kl_level_0",
    "elbo",
    "bits_per_character",
    "perplexity",
}
EVALUATION |= {
    "reconstruction_with_padding",
    "elbo_with_padding",
    "active_units",
    "mutual_information",
    "latent_size",
}
EVALUATION |= {"mutual_information_ceiling"}
EVALUATION |= {"mutual_information_texts", "log_determinant", "aggregated_mean_norm", "code_norm"}

TEXTS = {
    "text_unit",
    "reference_texts",
    "training_texts",
    "reconstructions",
    "samples",
    "greedy_samples",
}
TEXTS |= {"ngram_order", "ngram_texts", "real_texts"}

VERIFIED = {
    "bundle",
    "runtime",
    "model_id",
    "files",
    "seed_test_texts",
    "map_texts",
    "parity_at_export",
    "against",
    "parity",
}

FINDINGS = {
    *("rival_bits_per_character", "rival_order", "rival_texts", "findings", "findings.about"),
    *("findings.good", "findings.sentence", "findings.advice"),
}
"""What the numbers mean, beside an n-gram model."""

END = FINDINGS | {
    *("training_elbo", "temperature", "ngram_order", "ngram_texts", "reconstructions"),
    *("edit_distances", "samples", "greedy_samples", "real_texts", "shown_samples"),
    *("reconstructed", "reconstructed.text", "reconstructed.reconstruction"),
    "reconstructed.nearest",
}
"""The end of a run: texts and comparisons too."""

KEYS: dict[str, tuple[Callable[[Places], list[object]], set[str]]] = {
    "train": (
        lambda at: ["train", "--resume", "--out", shutil.copytree(at.run, at.tmp / "again")],
        {"run", "parameters"} | EVALUATION | END,
    ),
    "diagnose": (
        lambda at: ["diagnose", at.run],
        {"run", "has_code", "texts", "reconstruction", "kl", "elbo", "latent_size", "state"}
        | {"active_units", "mutual_information", "mutual_information_ceiling"}
        | {"mutual_information_texts", "exchanged", "quarters", "map_positions", "aggregated"}
        | {"training", "positions", "levels", "dimensions", "findings", "advice"}
        | {f"positions.{key}" for key in ("position", "texts", "own", "other", "prior")}
        | {f"levels.{key}" for key in ("level", "size", "kl", "active_units")}
        | {f"dimensions.{key}" for key in ("level", "dimension", "kl", "information")}
        | {f"dimensions.{key}" for key in ("activity", "mean", "variance", "deviation")}
        | {f"findings.{key}" for key in ("about", "good", "sentence")},
    ),
    "fit-prior": (
        lambda at: ["fit-prior", at.run, "--out", at.tmp / "fitted", "--components", 1],
        {"run", "out", "components", "covariance", "prior_parameters", "texts", "codes"}
        | {"iterations", "elbo_before", "elbo", "kl_before", "kl", "saved", "saved_error"}
        | {"saved_training", "overfits", "warning", "report"},
    ),
    "evaluate": (
        lambda at: ["evaluate", at.run, "--texts", 2, "--samples", 2],
        {"run", "data", "edit_distances"} | EVALUATION | TEXTS | FINDINGS,
    ),
    "export": (
        lambda at: ["export", at.run, at.tmp / "bundle", "--int8"],
        {"bundle", "endpoints", "parity", "quantization", "map"},
    ),
    "verify": (lambda at: ["verify", at.bundle], VERIFIED),
    "encode": (lambda at: ["encode", at.bundle, at.corpus], {"codes", "codes.text", "codes.code"}),
    "reconstruct": (
        lambda at: ["reconstruct", at.bundle, at.corpus],
        {
            "reconstructions",
            *(f"reconstructions.{key}" for key in ("text", "reconstruction", "equal")),
        },
    ),
    "stream": (lambda at: ["stream", at.bundle], {"seed", "row", "text", "pieces"}),
    "neighbours": (
        lambda at: ["neighbours", at.bundle, "KAMI", at.corpus],
        {"neighbours", "neighbours.text", "neighbours.distance"},
    ),
    "arithmetic": (lambda at: ["arithmetic", at.bundle, "--plus", "KAMI"], {"text"}),
    "presets": (
        lambda at: ["presets"],
        {"presets", *(f"presets.{key}" for key in ("name", "description", "source", "config"))}
        | {f"presets.{key}" for key in ("parameters", "counted_at", "published_nats")},
    ),
    "data list": (
        lambda at: ["data", "list"],
        {
            "folder",
            "corpora",
            *(f"corpora.{key}" for key in ("name", "description", "settings", "labels")),
        }
        | {f"corpora.{key}" for key in ("entropy", "missing", "terms", "citation")},
    ),
}
"""The keys that each command prints with --json; keys of objects in a list follow the list's."""


def keys_of(report: dict[str, Any]) -> set[str]:
    """The keys of an object, and `list.key` of the objects in its lists."""
    lists = {name: value for name, value in report.items() if isinstance(value, list)}
    inner = {
        f"{name}.{key}"
        for name, value in lists.items()
        for each in value
        if isinstance(each, dict)
        for key in each
    }
    return set(report) | inner


@pytest.mark.parametrize("command", KEYS)
def test_the_keys_of_json_are_as_recorded(
    kvae: Any,
    tmp_path: Path,
    run_folder: Path,
    bundle_folder: Path,
    corpus_file: Path,
    command: str,
) -> None:
    arguments, expected = KEYS[command]
    report = json_of(
        kvae(*arguments(Places(tmp_path, run_folder, bundle_folder, corpus_file)), "--json")
    )
    assert keys_of(report) == expected


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line_the_right_exit_code_and_nothing_left_behind(
    kvae: Any, tmp_path: Path, run_folder: Path, bundle_folder: Path, corpus_file: Path, case: str
) -> None:
    command, expected, words = BAD[case]
    arguments = command(Places(tmp_path, run_folder, bundle_folder, corpus_file))
    before = sorted(tmp_path.rglob("*")) + sorted(run_folder.rglob("*"))
    code, out, err = kvae(*arguments)
    assert code == expected, err
    assert out == ""
    errors = [line for line in err.splitlines() if line.startswith("kvae ")]
    assert words in (errors or err.splitlines())[-1]
    assert len(errors) <= 1
    assert "Traceback" not in err
    assert sorted(tmp_path.rglob("*")) + sorted(run_folder.rglob("*")) == before


def test_all_studies_begin_only_where_the_data_of_all_are_there(
    kvae: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVAE_DATA", str(tmp_path / "data"))
    code, _, err = kvae("reproduce", "all", "--out", tmp_path / "runs")
    assert code == 4
    assert "tweets.train.txt is not in" in err
    assert not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("few_sines")
def test_reproduce_prints_table_and_verdicts_writes_the_chapter_and_fails_with_a_statement(
    kvae: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kvae.presets import preset
    from kvae.training import studies
    from kvae.training.reproduction import Row, Statement, Study

    config = preset("cnn-dense-toy-small").with_settings(
        {"training.epochs": 1, "training.steps_per_epoch": 1, "training.jit_compile": False}
    )
    holds, fails = (
        Statement(
            text,
            "here",
            lambda numbers, text=text: (numbers["one"]["kl"] >= 0 and text == "True.", "KL"),
        )
        for text in ("True.", "False.")
    )
    tiny = Study(
        "Tiny",
        "here",
        "Nothing.",
        {"small": lambda: [Row("one", config)]},
        {"elbo": "bound"},
        (holds, fails),
    )
    monkeypatch.setattr(studies, "STUDIES", {"toy": tiny})
    options = ["reproduce", "toy", "--out", tmp_path / "runs", "--book", tmp_path / "book"]
    code, out, err = kvae(*options)
    assert code == 1
    assert "1 statement(s) do not hold" in err
    assert "| one | " in out
    assert "PASS  True. KL." in out
    assert "FAIL  False. KL." in out
    assert "**FAIL** False." in (tmp_path / "book" / "results.md").read_text(encoding="utf-8")
    code, out, err = kvae(*options, "--json")
    assert [verdict["passed"] for verdict in json.loads(out)["verdicts"]] == [True, False]
    assert "1 of 1 runs are already finished" in err
    code, out, _ = kvae("reproduce", "book", "--book", tmp_path / "book")
    assert (code, out.strip()) == (0, str(tmp_path / "book" / "results.md"))


@pytest.mark.slow
def test_another_runs_model_is_told_from_the_bundles(
    kvae: Any, corpus_file: Path, bundle_folder: Path, tmp_path: Path
) -> None:
    assert (
        kvae("train", "--data", corpus_file, "--out", tmp_path / "other", "--seed", 5, *SMALL)[0]
        == 0
    )
    code, _, err = kvae("verify", bundle_folder, "--against", tmp_path / "other")
    assert code == 1
    assert "holds the model" in err


def test_help_names_every_command(kvae: Any) -> None:
    code, out, _ = kvae("--help")
    assert code == 0
    for command in [
        "demo",
        "train",
        "evaluate",
        "export",
        "verify",
        "info",
        "sample",
        "stream",
        "score",
        "encode",
        "reconstruct",
        "interpolate",
        "variations",
        "neighbours",
        "arithmetic",
        "presets",
        "data",
    ]:
        assert re.search(rf"^    {command}\s", out, re.MULTILINE), command

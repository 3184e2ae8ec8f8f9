"""The tables of the papers, filled with the study's own numbers where it has their recipes."""

from scaling.report.blocks import Block, Heading, Note, Table
from scaling.report.wording import NOTHING, count, number
from scaling.studies.accuracy.judging import failure
from scaling.studies.accuracy.looks import pieces
from scaling.studies.accuracy.records import NAIVE, Point, Study
from scaling.studies.accuracy.texts import error_text, percent

YOU = (
    "In the paper (You et al. 2017, AlexNet with batch norm on ImageNet), accuracy without LARS is "
    "60.2% at batch 512, 58.9% at 4k and 58.0% at 8k; with LARS 60.2%, 60.4% and 60.1%, then "
    "59.3% at 16k and 57.8% at 32k. Without batch norm and LARS, higher rates diverge (0.1%)."
)
GOYAL = (
    "In the paper (Goyal et al. 2017, ResNet-50 on ImageNet, batch 8k, all with gradual warmup), "
    "error is 41.67% without scaling, 26.22% with the square root and 23.74% with the linear "
    "rule; under that, 24.84% without warmup, 25.88% with a constant and 23.74% with a gradual "
    "one. Batch 256 has 23.60%."
)
HOFFER = (
    "In the paper (Hoffer et al. 2017, validation accuracy, batch 128 and 4,096): ResNet-44 on "
    "CIFAR-10 92.83%, 86.10%, 89.30%, 90.50%, 93.07%; C1 on CIFAR-10 87.80%, 83.95%, 86.15%, "
    "86.40%, 88.20%; F1 on MNIST 98.27%, 97.05%, 97.55%, 97.60%, 98.53%. Each column adds to the "
    "one before: SB small batch, LB large batch, LR square root rule, GBN ghost batch norm, RA "
    "regime adaptation."
)

Found = tuple[str, Point]  # a recipe and its point


def paper_tables(study: Study, label: str) -> list[Block]:
    """Those whose recipes the study has."""
    return [*_you(study, label), *_goyal(study, label), *_hoffer(study, label)]


def _find(study: Study, batch: int, *recipes: str) -> Found | None:
    """The first of some recipes that was measured there, in whatever order its pieces stand."""
    for wanted in recipes:
        for recipe in study.recipes:
            if pieces(recipe) == pieces(wanted) and study.of(batch, recipe):
                return recipe, study.of(batch, recipe)
    return None


def _block(label, title, header, rows, note) -> list[Block]:
    return [Heading(f"{title} ({label})" if label else title), Table(header, rows), Note(note)]


def _you(study, label):
    """You et al. 2017, Tables 1 to 4: accuracy and rate by batch, without and with LARS."""
    rows = []
    for batch in study.batches:
        without = _find(study, batch, "linear+warmup+poly", "linear+warmup")
        layerwise = _lars(study, batch)
        if without or layerwise:
            rows.append([count(batch), *_rated(without), *_rated(layerwise)])
    columns = list(zip(*rows, strict=True))
    if not rows or any(set(columns[place]) == {NOTHING} for place in (1, 4)):
        return []
    header = ["batch"]
    for which in ("without LARS", "with LARS"):
        header += [f"{which}: recipe", "learning rate", "test accuracy"]
    return _block(label, "LARS, as in You et al. 2017", header, rows, YOU)


def _lars(study: Study, batch: int) -> Found | None:
    """The recipe with LARS that is nearest to the paper's."""
    wanted = pieces("lars+warmup+poly")
    found = [recipe for recipe in study.recipes if "lars" in pieces(recipe)]
    found = [recipe for recipe in found if study.of(batch, recipe)]
    recipe = min(found, key=lambda one: len(pieces(one) ^ wanted), default=None)
    return recipe and (recipe, study.of(batch, recipe))


def _rated(found: Found | None) -> list[str]:
    if found is None:
        return [NOTHING] * 3
    recipe, point = found
    return [recipe, number(point.learning_rate), _accuracy(point)]


def _goyal(study, label):
    """Goyal et al. 2017, Tables 1 and 2a: rules and warmups at the largest batch."""
    largest = study.batches[-1]
    gradual = ("linear+warmup",)
    rules = {
        "none": ("warmup", NAIVE),
        "square root": ("sqrt+warmup", "sqrt"),
        "linear": (*gradual, "linear"),
    }
    warmups = {"none": ("linear",), "constant": ("linear+constant_warmup",), "gradual": gradual}
    rows = []
    for what, cases in (("scaling rule", rules), ("warmup, linear rule", warmups)):
        found = {case: _find(study, largest, *recipes) for case, recipes in cases.items()}
        known = {case: one for case, one in found.items() if one}
        if len({point for _, point in known.values()}) > 1:
            rows += [_case(what, case, *one) for case, one in known.items()]
    if largest <= study.base_batch or not rows:
        return []
    header = ["", "", "recipe", "learning rate", "test error"]
    title = f"Scaling rules and warmup at batch {count(largest)}, as in Goyal et al. 2017"
    return _block(label, title, header, rows, GOYAL)


def _case(what, case, recipe, point):
    error = _failed(point) or error_text(point, "test")
    return [what, case, recipe, number(point.learning_rate), error]


def _hoffer(study, label):
    """Hoffer et al. 2017, Table 1: accuracy as each correction is added."""
    corrections = {"LB": NAIVE, "+LR": "sqrt", "+GBN": "sqrt+gbn", "+RA": "sqrt+gbn+adapt"}
    rows = []
    for batch in study.larger_batches:
        found = [_find(study, batch, recipe) for recipe in corrections.values()]
        if len({point for _, point in filter(None, found)}) > 1:
            cells = [_accuracy(one[1]) if one else NOTHING for one in found]
            rows.append([count(batch), _small(study), *cells])
    if not rows:
        return []
    header = ["batch", f"SB ({count(study.base_batch)})", *corrections]
    return _block(label, "Test accuracy, as in Hoffer et al. 2017", header, rows, HOFFER)


def _small(study):
    return _accuracy(study.reference) if study.reference else NOTHING


def _accuracy(point: Point) -> str:
    """88.70%, or that it diverged."""
    error = point.mean("test")
    return _failed(point) or percent(None if error is None else 1 - error)


def _failed(point: Point) -> str:
    """3 of 5 seeds diverged; nothing where none did."""
    return f"{failure(point)} diverged" if point.failed else ""

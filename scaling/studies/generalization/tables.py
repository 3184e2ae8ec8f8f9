"""The numbers as CSV: seeds, curves and layers."""

from collections.abc import Sequence

from scaling.report.tables import Row, head, to_csv
from scaling.studies.generalization.records import COLUMNS, LAWS, Point, Run, Study


def tables(studies: Sequence[Study]) -> dict[str, str]:
    """File name -> CSV: one row per seed, per evaluation, and per layer."""
    pairs = [(study, point) for study in studies for point in study.points]
    triples = [(study, point, run) for study, point in pairs for run in point.runs]
    return {
        "generalization.csv": to_csv(
            [_about(study, point) | _seed(point, run) for study, point, run in triples]
        ),
        "generalization_curves.csv": to_csv(
            [
                _about(study, point) | {"seed": run.seed, "step": step} | dict(values)
                for study, point, run in triples
                for step, values in _evaluations(run)
            ]
        ),
        "generalization_layers.csv": to_csv(
            [
                _about(study, point)
                | {"layer": layer.name, "size": layer.size}
                | _norms(layer, "start")
                | _norms(layer, "end")
                for study, point in pairs
                for layer in point.layers
            ]
        ),
    }


def _about(study: Study, point: Point) -> Row:
    names = {"recipe": point.recipe, "recipes": ", ".join(point.recipes)}
    return head(study, point) | {"global_batch": point.global_batch} | names


def _seed(point: Point, run: Run) -> Row:
    row = {"seed": run.seed, "status": run.status, "diverged_at": run.diverged_at}
    row |= {key: getattr(point, key) for key in ("steps", "epochs", "optimizer", "learning_rate")}
    row |= dict(zip(("fit_first_step", "fit_last_step"), point.fit_steps, strict=True))
    for law in LAWS if run.diffusion else ():
        row |= {f"{law}_{key}": v for key, v in vars(getattr(run.diffusion, law)).items()}
    curves = {column: run.curve.of(column) for column in COLUMNS}
    return row | {f"final_{name}": curve[max(curve)] for name, curve in curves.items() if curve}


def _evaluations(run: Run):
    curve = run.curve
    for place, step in enumerate(curve.step):
        yield step, {column: curve.columns[column][place] for column in COLUMNS}


def _norms(layer, when) -> Row:
    norms = getattr(layer, when)
    row = {f"{when}_{key}": value for key, value in vars(norms).items()}
    return row | {f"{when}_ratio": norms.ratio}

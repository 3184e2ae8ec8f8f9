"""Data sets by name: metadata, availability and arrays.

MNIST, Fashion-MNIST, CIFAR-10/100, ImageNet and Open Images are TFDS directories of array_record
files, which TFDS reads without TensorFlow. `digits` is a file of scikit-learn, `openclipart` a
folder of arrays, `deepcam` one of HDF5 files; `synthetic` and `synthetic_climate` have no files.
Any other name is that of a folder of tokens, see `text`. `register` adds user-defined sets, of any
arrays.

Splits are those of the papers: MNIST, Fashion-MNIST and CIFAR hold out the last 5,000 training
images, ImageNet the last 50,000 (its official validation set is then the test set).
"""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scaling.data import text
from scaling.data.corpora import CORPORA
from scaling.data.directories import (
    cache_dir,
    data_root,
    find_prepared,
    identity_of,
    incomplete,
    load_prepared,
    missing,
    read_cache,
    unknown,
    write_cache,
)
from scaling.data.known import (
    GENERATED,
    INFOS,
    OWN,
    SPLITS,
    DataInfo,
    Example,
    Split,
    images,
    maps,
    task_class,
)
from scaling.errors import UserError, call_users, nearest, refuse_unread

# Registered set -> function from split name to split.
_LOADERS: dict[str, Callable[[str], Split]] = {}

# Identities of the prepared sets of which this process has read all splits.
_CHECKED: set[str] = set()


def describe(name: str, data_dir=None, **options) -> DataInfo:
    """Metadata of data set `name`, without file access but to that of a folder of tokens.

    Args:
      name: a data set.
      data_dir: TFDS's root, where folders of tokens lie too.
      **options: for `synthetic`: image_shape, num_classes and sizes, instead of CIFAR-10's; for
        `synthetic_climate`: image_shape; for tokens: length, of a row; for tokens and `deepcam`:
        streamed, whether examples are read from disk as they are needed.

    Raises:
      UserError: unknown name or option, or a damaged folder of tokens.
    """
    is_text = name not in (*INFOS, "synthetic")
    known = {
        "synthetic": ("image_shape", "num_classes", "sizes"),
        "synthetic_climate": ("image_shape",),
        "deepcam": ("streamed",),
    }.get(name, ("length", "streamed") if is_text else ())
    for option in options:
        if option not in known:
            takes = f"it has {', '.join(known)}" if known else "it has none"
            raise UserError(f"Data set {name!r} has no option {option!r}; {takes}.")
    if is_text:
        return _tokens(name, data_dir, **options)
    if name == "synthetic_climate" and options:
        return _climate(options["image_shape"])
    if name == "deepcam":
        return _deepcam(data_root(data_dir) / name, **options)
    return INFOS[name] if name in INFOS else _synthetic(**options)


def _climate(image_shape) -> DataInfo:
    """`synthetic_climate` of another size."""
    if len(image_shape) != 3 or image_shape[2] != 16:
        raise UserError(
            f"data.image_shape is {image_shape}; maps of synthetic_climate are (height, width, 16)."
        )
    if image_shape[0] < 16 or image_shape[1] < 32:
        raise UserError(
            f"data.image_shape is {image_shape}; maps of synthetic_climate have at least 16 x 32 "
            "pixels, of which the box around a cyclone holds some."
        )
    info = INFOS["synthetic_climate"]
    return maps(info.name, *image_shape[:2], *info.sizes.values())


def _deepcam(folder: Path, streamed=False) -> DataInfo:
    """`deepcam` with as many examples of the size that there are, or as MLPerf HPC's where the
    folder is missing."""
    from scaling.data import climate

    info = dataclasses.replace(INFOS["deepcam"], streaming=streamed, folder=folder)
    if not folder.is_dir():
        return info
    sizes = {split: len(climate.files(folder, split)) for split in SPLITS}
    if lacking := [split for split, size in sizes.items() if not size]:
        raise incomplete(folder, f"{lacking[0]} has no *.h5")
    example = maps(info.name, *climate.grid_of(folder), *sizes.values()).example
    return dataclasses.replace(info, sizes=sizes, example=example)


def _tokens(name, data_dir, length=None, streamed=False) -> DataInfo:
    """Of a folder of tokens; of a known text also before it is prepared, for dry runs."""
    folder = data_root(data_dir) / name
    corpus = CORPORA.get(name, CORPORA["text"])
    if not folder.is_dir() and not corpus.tokens:
        raise unknown(name, folder.parent)
    if length is None:
        raise UserError(f"{name} is text; set data.length to the tokens of a row, e.g. to 128.")
    options, files = {}, {}
    vocabulary, counts = corpus.vocabulary, corpus.tokens
    if folder.is_dir():
        meta = text.read_meta(folder)
        vocabulary, counts = meta.vocabulary, {s: meta.splits[s]["tokens"] for s in SPLITS}
        options = {"start": meta.eos, "bytes_per_token": meta.bytes_per_token}
        files = dataclasses.asdict(meta)
        files.pop("command")
    sizes = {split: counts[split] // length for split in SPLITS}
    if few := [split for split in SPLITS if not sizes[split]]:
        raise UserError(
            f"data.length is {length}, and the {few[0]} split of {name} has {counts[few[0]]:,} "
            "tokens; use shorter rows."
        )
    return DataInfo(
        name,
        {"tokens": ((length,), "uint16")},
        vocabulary,
        sizes,
        streaming=streamed,
        task="language",
        options=options,
        folder=folder,
        files=files,
    )


def _synthetic(image_shape=(32, 32, 3), num_classes=10, sizes=None) -> DataInfo:
    """Pixels of `resident.synthetic` are sums of two uniform integers 0..127: mean 127/255,
    standard deviation sqrt((128^2 - 1) / 6) / 255."""
    sizes = dict(sizes or INFOS["cifar10"].sizes)
    mean, std = ((value,) * image_shape[-1] for value in (0.4980, 0.2049))
    return DataInfo("synthetic", images(image_shape), num_classes, sizes, mean, std)


def check_available(name: str, data_dir=None) -> None:
    """Check that every split of `name` can be loaded, so that none fails when it is first used, the
    test split after the last update. Well under a second once a set is decoded.

    Args:
      name: a data set; if streamed, its records are counted and not read.
      data_dir: TFDS's root; default $TFDS_DATA_DIR, else ~/tensorflow_datasets.

    Raises:
      UserError: as `load`; for a missing set, with instructions.
    """
    if name not in (*INFOS, "synthetic"):
        folder = data_root(data_dir) / name
        if not folder.is_dir():
            known = CORPORA.get(name, CORPORA["text"]).tokens
            raise (missing if known else unknown)(name, folder.parent)
        text.check(folder)
        return
    info = describe(name, data_dir)
    if name == "digits":
        _digits_file()
    elif name in (*_LOADERS, "openclipart"):
        for split in SPLITS:
            load(name, split, data_dir)
    elif info.streaming:
        find_prepared(name, data_dir)
    elif name == "deepcam":
        if not (folder := data_root(data_dir) / name).is_dir():
            raise missing(name, folder.parent)
    elif name not in GENERATED:
        prepared = find_prepared(name, data_dir)
        identity = identity_of(info, prepared)
        if identity not in _CHECKED:
            for split in SPLITS:
                load_prepared(info, split, prepared, identity)
            _CHECKED.add(identity)


def load(data: str | DataInfo, split: str, data_dir=None) -> Split:
    """Read one split into memory. A decoded copy is cached under `cache_dir()`; that of a
    registered set only in memory, since changes of its source cannot be detected.

    Args:
      data: a set that fits in memory: any but `imagenet` (see `streaming`) and `synthetic`. Of
        tokens, what `describe` says of it.
      split: 'train', 'validation' or 'test'.
      data_dir: TFDS's root; default $TFDS_DATA_DIR, else ~/tensorflow_datasets.

    Returns:
      The split, in TFDS's order; its arrays may be read-only memory maps of the cached files.

    Raises:
      UserError: unknown name or split; missing, incomplete or corrupted files; arrays that are not
        as registered.
    """
    info = data if isinstance(data, DataInfo) else describe(data, data_dir)
    check_split(info, split)
    name = info.name
    if name == "deepcam":
        return rows_of(info, split)(np.arange(info.sizes[split]))
    if info.folder:
        (length,), _ = info.example["tokens"]
        return {"tokens": text.read_rows(info.folder, split, length)}
    if info.streaming or name == "synthetic":
        raise ValueError(f"{name} has no arrays to load")
    if name in _LOADERS:
        return _LOADERS[name](split)
    if name == "digits":
        return _load_digits(info, split)
    if name == "openclipart":
        return _load_arrays(info, split, data_dir)
    if name == "synthetic_climate":
        return _load_climate(info, split)
    prepared = find_prepared(name, data_dir)
    return load_prepared(info, split, prepared, identity_of(info, prepared))


def rows_of(info: DataInfo, split: str) -> Callable[[np.ndarray], Split]:
    """read(places): the examples there of a split in a folder, [*places.shape, ...].

    Raises:
      UserError: as `load`.
    """
    if info.name == "deepcam":
        from scaling.data import climate

        return climate.reader(info.folder, split)
    arrays = load(info, split)
    return lambda places: {name: array[places] for name, array in arrays.items()}


def check_split(info: DataInfo, split: str) -> None:
    """UserError unless the set has the split."""
    if split not in info.sizes:
        raise UserError(f"{info.name} has no split {split!r}: {nearest(split, info.sizes)}")


# ---- User-defined sets ----


def register(
    name: str,
    load: Callable[[str], Any],
    *,
    sizes: dict[str, int],
    image_shape: tuple[int, int, int] | None = None,
    example: Example | None = None,
    task: str = "classification",
    num_classes: int | None = None,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.25,
    **options: Any,
) -> None:
    """Make arrays in memory available to configs as a data set; see docs/your_model.md.

    The latest registration of a name is used, since a config file may be loaded more than once.

    Args:
      name: for `data.name`.
      load: split -> {name: array [N, *shape]} as `example` has them; for `image_shape` a pair
        (images uint8 [N, H, W, C], labels int [N], from 0). Called before a study starts, once per
        split and process; it must be deterministic, as every process of a study calls it.
      sizes: examples in "train", "validation" and "test", as returned by `load`.
      image_shape: (H, W, C) of images with one label each; else give `example`.
      example: name -> (shape, dtype) of the arrays of one example. The names that the task needs
        are among them, as `tasks` describes; the model is given the others, as an array or, if
        there are several, as a dict.
      task: "classification" or another of `tasks.TASKS`.
      num_classes: numbers that the model gives; may be left out where `example` tells it.
      mean, std: of uint8 pixels named "image" on the 0..1 scale, for normalisation; one number, or
        one per channel. The defaults map pixels to -2..2. Other arrays are not changed.
      **options: of the task, such as `bytes_per_token`.

    Raises:
      UserError: the name is taken by a set of the program, or an invalid value.
    """
    if name in OWN:
        raise UserError(f"Data set {name!r} already exists; register yours under another name.")
    kind, check = task_class(task), functools.partial(_check_argument, name)
    refuse_unread(f"Task {task!r}", options, kind.options())
    check("load", load, callable, "a function of a split's name")
    if example is None:
        good = lambda shape: np.shape(shape) == (3,) and _whole(*shape) and min(shape) >= 1
        check("image_shape", image_shape, good, "(height, width, channels), or give an example")
        example = images(map(int, image_shape))
    check("example", example, _is_example, "{name: (shape, dtype)}, dtypes of numbers")
    example = {key: (tuple(shape), np.dtype(dtype).name) for key, (shape, dtype) in example.items()}
    if lacking := [key for key in kind.needs if key not in example]:
        raise UserError(
            f"Data set {name!r} is registered for {task} and its example has no {lacking[0]!r}; it "
            f"has {', '.join(example)}."
        )
    num_classes = kind.outputs_of(example) if num_classes is None else num_classes
    fewest = 2 if task == "classification" else 1
    good = lambda n: _whole(n) and n >= fewest and kind.outputs_of(example) in (None, n)
    check("num_classes", num_classes, good, f"at least {fewest}, a whole number")
    good = lambda s: set(s) == set(SPLITS) and _whole(*s.values()) and min(s.values()) >= 1
    check(
        "sizes",
        sizes,
        good,
        "the numbers of examples in train, validation and test, 1 or more each",
    )
    sizes = {split: int(sizes[split]) for split in SPLITS}
    statistics = _statistics(check, example, mean=mean, std=std)
    INFOS[name] = DataInfo(
        name, example, int(num_classes), sizes, *statistics, task=task, options=options
    )
    loader = functools.partial(_load_registered, INFOS[name], image_shape is not None, load)
    _LOADERS[name] = functools.cache(loader)


def _whole(*values):
    return all(isinstance(v, int | np.integer) for v in values)


def _is_example(example):
    """Whether it is {name: (shape, dtype)}."""
    for name, (shape, dtype) in example.items():
        sizes = _whole(*shape) and min(shape, default=1) >= 1
        if not (isinstance(name, str) and sizes and np.dtype(dtype).kind in "iuf"):
            return False
    return bool(example) and not {"index", "mask"} & set(example)


def _statistics(check, example, **given):
    """The mean and the deviation of each channel of uint8 images; () of other examples."""
    shape, dtype = example.get("image", ((), ""))
    if dtype != "uint8":
        return (), ()
    found = []
    for key, value in given.items():
        good = lambda v, key=key: (
            np.shape(v) in ((), shape[-1:])
            and 0 <= np.min(v) <= np.max(v) <= 1
            and (key == "mean" or np.min(v) > 0)
        )
        check(key, value, good, "one number or one per channel, on the 0..1 scale, the std above 0")
        found.append(tuple(np.broadcast_to(value, shape[-1]).astype(float).tolist()))
    return found


def _check_argument(name, key, value, is_valid, expected):
    try:
        valid = is_valid(value)
    except (TypeError, ValueError, AttributeError):  # another type
        valid = False
    if not valid:
        raise UserError(f"Data set {name!r} is registered with {key} {value!r}; use {expected}.")


def _load_registered(info: DataInfo, pair: bool, load, split: str) -> Split:
    """The split returned by `load`, checked against the registration.

    Args:
      pair: whether `load` returns (images, labels).
    """
    given = call_users(f"load({split!r}) of data set {info.name!r}", load, split)
    where = f"Data set {info.name!r}, split {split!r}: load returns"
    what = type(given).__name__
    if pair:
        if not (isinstance(given, tuple | list) and len(given) == 2):
            if isinstance(given, tuple | list):
                what = f"a {what} of {len(given)}"
            raise UserError(f"{where} {what}; return two arrays, (images, labels).")
        given = dict(zip(info.example, given, strict=True))
    elif not (isinstance(given, dict) and set(given) == set(info.example)):
        what += f" of {', '.join(map(str, given))}" if isinstance(given, dict) else ""
        raise UserError(
            f"{where} {what}; return a dict of {', '.join(info.example)}, as registered."
        )
    return {
        name: _array(where, f"{name}s" if pair else name, given[name], info, name, split)
        for name in info.example
    }


def _array(where, what, values, info, name, split):
    """One array of a split, as registered."""
    try:
        array = np.asarray(values)
    except (TypeError, ValueError) as error:  # rows of unequal lengths
        raise UserError(f"{where} {what} that are not an array ({error}).") from None
    shape, dtype = info.example[name]
    if array.shape != (expected := (info.sizes[split], *shape)):
        raise UserError(
            f"{where} {what} of shape {array.shape}, and {expected} is registered; make them agree."
        )
    if name == "image" and dtype == "uint8" and array.dtype != dtype:
        raise UserError(
            f"{where} {array.dtype} {what}; return uint8 from 0 to 255, for floats from 0 to 1 "
            "np.round(255 * images).astype(np.uint8)."
        )
    whole = np.dtype(dtype).kind in "iu"
    low, high = task_class(info.task).bounds(info.num_classes).get(name, (-math.inf, math.inf))
    if whole:
        low, high = max(low, np.iinfo(dtype).min), min(high, np.iinfo(dtype).max)
    kinds, checked = "biu" if whole else "biuf", array
    if name == "label" and (void := info.options.get("void")) is not None:
        counted = array.reshape(len(array), -1) != void
        if (empty := ~counted.any(1)).any():
            raise UserError(
                f"{where} {what} that are void, {void}, in all of row {int(empty.argmax())}; leave "
                "out such rows."
            )
        checked = array[array != void]
    if array.dtype.kind not in kinds or checked.min() < low or checked.max() > high:
        span = f" from {checked.min()} to {checked.max()}" if array.dtype.kind in "biuf" else ""
        expected = f"integers from {low} to {high}" if whole else "numbers, no weight below 0"
        raise UserError(f"{where} {array.dtype} {what}{span}; return {expected}.")
    rows = array.reshape(len(array), -1)
    if not whole and not (finite := np.isfinite(rows).all(1)).all():
        raise UserError(
            f"{where} {what} that are not finite, first in row {int(finite.argmin())}; replace or "
            "leave out such values."
        )
    if name == "weights" and (empty := ~(rows.sum(1) > 0)).any():
        raise UserError(
            f"{where} {what} of 0 in all of row {int(empty.argmax())}; leave out such rows."
        )
    return array.astype(dtype, copy=False)


# ---- digits: inside scikit-learn ----


def _digits_file() -> Path:
    """The file of sklearn.datasets.load_digits, without importing sklearn, which takes seconds."""
    import importlib.util

    spec = importlib.util.find_spec("sklearn")
    path = spec and Path(spec.submodule_search_locations[0], "datasets/data/digits.csv.gz")
    if not path or not path.is_file():
        raise UserError("Data set 'digits' is part of scikit-learn: pip install scikit-learn.")
    return path


def _load_digits(info: DataInfo, split: str) -> Split:
    """1,197/300/300 images of a fixed permutation. NumPy guarantees RandomState's stream."""
    table = np.loadtxt(_digits_file(), delimiter=",", dtype=np.uint8)
    table = table[np.random.RandomState(0).permutation(len(table))]
    ends = np.cumsum(list(info.sizes.values()))
    rows = np.split(table, ends[:-1])[list(info.sizes).index(split)]
    pixels = np.round(rows[:, :64] * (255 / 16)).astype(np.uint8)
    return {"image": pixels.reshape(-1, 8, 8, 1), "label": rows[:, 64].astype(np.int32)}


# ---- Maps ----


def _load_climate(info: DataInfo, split: str) -> Split:
    """`climate.synthetic`, cached: a tenth of a second for each map of 96 x 144."""
    from scaling.data import climate

    (height, width), _ = info.example["label"]
    own = SPLITS.index(split), info.sizes[split], height, width
    code = Path(climate.__file__).read_bytes()
    identity = hashlib.sha256(code + repr((own, np.__version__)).encode()).hexdigest()[:16]
    entry = cache_dir() / f"{info.name}-{split}-{identity}"
    maps = read_cache(entry, info.example)
    if maps is None:
        maps = climate.synthetic(*own)
        write_cache(entry, maps)
    return maps


# ---- Folders of arrays ----


def _load_arrays(info: DataInfo, split: str, data_dir) -> Split:
    """NAME-SPLIT.npy of each array."""
    folder = data_root(data_dir) / info.name
    if not folder.is_dir():
        raise missing(info.name, folder.parent)
    arrays = {}
    for name, (shape, dtype) in info.example.items():
        path, expected = folder / f"{name}-{split}.npy", (info.sizes[split], *shape)
        try:
            array = np.load(path, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise incomplete(folder, f"{path.name} cannot be read ({error})") from error
        if (array.shape, array.dtype) != (expected, dtype):
            what = f"{path.name} has {array.dtype} of {array.shape}, not {dtype} of {expected}"
            raise incomplete(folder, what)
        arrays[name] = array
    return arrays

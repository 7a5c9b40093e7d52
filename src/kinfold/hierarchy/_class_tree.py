"""Class trees: classes and their parents, from WordNet, a mapping or a parent table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kinfold.errors import InputError, nearest_name
from kinfold.hierarchy._hierarchy import (
    Choice,
    Hierarchy,
    Links,
    Numbers,
    breadth_first_pairs,
    without_shortcuts,
)
from kinfold.hierarchy._wordnet import WordNet, load_wordnet
from kinfold.paths import arrow_path
from kinfold.reading import reading
from kinfold.storage import hash_json
from kinfold.tables import TextTable, is_parquet
from kinfold.validation import check_choice, check_integer

CHILD, PARENT = "child", "parent"
_TEXT = (".csv", ".tsv")

Parents = Mapping[str, "str | Iterable[str] | None"]

Rule = Literal["nearest-ancestor", "direct"]
RULES = ("nearest-ancestor", "direct")


def link(parents: Parents, what: str) -> tuple[tuple[str, ...], Links]:
    """Return the ids of a mapping from child to parents, in its order, and the links.

    Raises
    ------
    InputError
        It is no mapping or empty, an id is not a non-empty string, or a parent has no entry of its own, is
        the child itself, or is named twice.
    """
    if not isinstance(parents, Mapping):
        raise InputError(
            f"{what} is made of a mapping from child to parents, not of {type(parents).__name__}"
        )
    if not parents:
        raise InputError(f"{what} has no class; it needs one at least")
    # Checked one by one and before any array: a message should name the class and not an index.
    number_of = {child: number for number, child in enumerate(parents)}
    owners: list[int] = []
    values: list[int] = []
    for child, above in parents.items():
        _check_id(child, what)
        named = _named(child, above, what)
        for parent in named:
            _check_id(parent, what)
            if parent == child:
                raise InputError(f"{what}: {child!r} is its own parent")
            # A parent without an entry may be a typing error; taking it for a root would hide that.
            if parent not in number_of:
                hint = nearest_name(str(parent), list(number_of)) or "; give it one, with an empty parent"
                raise InputError(f"{what}: the parent {parent!r} of {child!r} has no entry of its own{hint}")
        if len(set(named)) < len(named):
            twice = next(parent for parent in named if named.count(parent) > 1)
            raise InputError(f"{what}: {child!r} has the parent {twice!r} twice")
        owners += [number_of[child]] * len(named)
        values += [number_of[parent] for parent in named]
    pairs = np.array(owners, dtype=np.int64), np.array(values, dtype=np.int32)
    return tuple(parents), Links.from_pairs(*pairs, len(parents))


def _named(child: str, above: str | Iterable[str] | None, what: str) -> list[str]:
    if above is None or isinstance(above, str):
        return [] if above is None else [above]
    if not isinstance(above, Iterable):
        raise InputError(f"{what}: {child!r} has the parents {above!r}, which are not a list of strings")
    return list(above)


def _check_id(child: object, what: str) -> None:
    if not isinstance(child, str) or not child:
        raise InputError(f"{what}: ids must be non-empty strings; got {child!r}")


def read_parent_table(path: Path, child_column: str, parent_column: str) -> dict[str, list[str]]:
    """Read a file with one row per child and parent; an empty parent makes a root.

    Raises
    ------
    InputError
        The file can't be read or lacks a column, a child is empty, a pair is there twice, or a root has a
        parent in another row.
    """
    rows = _read_parquet if is_parquet(path) else _read_text
    parents: dict[str, list[str]] = {}
    roots: set[str] = set()
    for place, child, parent in rows(path, child_column, parent_column):
        if not child:
            raise InputError(f"{path}, row {place}: the child is empty")
        known = parents.setdefault(child, [])
        shown = repr(parent) if parent else "nothing"
        if parent in known or (not parent and child in roots):
            raise InputError(f"{path}, row {place}: {child!r} below {shown} is there twice")
        if (child in roots) if parent else bool(known):
            raise InputError(
                f"{path}, row {place}: {child!r} has an empty parent in one row and one in another"
            )
        if parent:
            known.append(parent)
        else:
            roots.add(child)
    return parents


def _read_text(path: Path, child_column: str, parent_column: str) -> Iterator[tuple[int, str, str]]:
    if path.suffix.lower() not in _TEXT:
        raise InputError(f"{path} is no parent table: it must end in .csv, .tsv or .parquet")
    with reading(path, given=True):
        table = TextTable.open(path, is_path=lambda cell: False)  # an id may end as an image does
        _require(path, table.names, child_column, parent_column)
        child, parent = (table.names.index(name) for name in (child_column, parent_column))
        rows = table.rows(strict=True, quoted=True)
        for place, row in enumerate(rows, start=table.skip + 1):
            yield place, row[child], row[parent]


def _read_parquet(path: Path, child_column: str, parent_column: str) -> Iterator[tuple[int, str, str]]:
    with reading(path, given=True):
        _require(path, pq.read_schema(arrow_path(path)).names, child_column, parent_column)
        table = pq.read_table(arrow_path(path), columns=[child_column, parent_column])
        columns = [_texts(path, table, name) for name in (child_column, parent_column)]
    for place, (child, parent) in enumerate(zip(*columns, strict=True), start=1):
        yield place, child or "", parent or ""


def _texts(path: Path, table: Any, name: str) -> list[str | None]:
    kind = table.schema.field(name).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    known = (pa.types.is_integer, pa.types.is_string, pa.types.is_large_string, pa.types.is_null)
    if not any(fits(kind) for fits in known):  # null: where no class has a parent
        raise InputError(f"column {name!r} of {path} holds {kind}, not strings or integers")
    texts: list[str | None] = table[name].cast(pa.string()).to_pylist()
    return texts


def _require(path: Path, names: Iterable[str], *wanted: str) -> None:
    known = list(names)
    for name in wanted:
        if name not in known:
            hint = nearest_name(name, known) or f"; it has {', '.join(known) or 'none'}"
            raise InputError(f"{path} has no column {name!r}{hint}")


class ClassTree(Hierarchy):
    """Classes in a hierarchy; a class may have several parents, and there may be several roots.

    The index of a class is its place in the given order, so that indices serve as labels.

    Parameters
    ----------
    parents : mapping of str to str, iterable of str, or None
        Parent or parents of every class; None or nothing for a root. Every parent has an entry of its own.

    Raises
    ------
    InputError
        There is no class, an id is not a string, a parent is unknown, named twice, or the class itself, or
        there is a cycle.

    Examples
    --------
    >>> tree = ClassTree({"animal": None, "dog": "animal", "pet": "animal", "lapdog": ["dog", "pet"]})
    >>> tree.leaves, tree.ancestors("lapdog"), tree.siblings("dog")
    (('lapdog',), ('dog', 'pet', 'animal'), ('pet',))
    >>> tree.coarsen(1)
    array([0, 1, 2, 1], dtype=int32)
    """

    _what = "the class tree"

    def __init__(self, parents: Parents) -> None:
        super().__init__(*link(parents, self._what))

    @classmethod
    def from_wordnet(
        cls,
        ids: Iterable[str],
        *,
        rule: Rule = "nearest-ancestor",
        instances: bool = True,
        wordnet: WordNet | None = None,
    ) -> ClassTree:
        """Hang synsets below one another as WordNet does.

        Parameters
        ----------
        ids : iterable of str
            Noun synsets of WordNet 3.0, none twice. Their order is kept.
        rule : {"nearest-ancestor", "direct"}, default "nearest-ancestor"
            "direct": the parents of a class are those of its hypernyms that are classes too, so that a gap in
            the set cuts the tree. "nearest-ancestor": its parents are those ancestors among the classes that
            are not ancestors of one another, nearest first.
        instances : bool, default True
            Go by instance relations too, not by kinds alone.
        wordnet : WordNet, optional
            By default :func:`load_wordnet`.

        Raises
        ------
        InputError
            There is no class, one is there twice or is no noun synset, or the rule is unknown.
        """
        source = wordnet or load_wordnet()
        return cls._below(source, source.parent_links if instances else source.hypernym_links, ids, rule)

    @classmethod
    def from_table(
        cls, path: str | Path, *, child_column: str = CHILD, parent_column: str = PARENT
    ) -> ClassTree:
        """Read a parent table: one row per child and parent.

        Parameters
        ----------
        path : str or Path
            A CSV, TSV or Parquet file. A child with several parents has several rows; a root has one row with
            an empty parent. Classes keep the order of their first rows.
        child_column, parent_column : str, default "child" and "parent"
            Names of the columns, of strings or (in Parquet) integers.

        Raises
        ------
        InputError
            The file can't be read, or its rows don't make a tree; see :class:`ClassTree`.
        """
        parents = read_parent_table(Path(path), child_column, parent_column)
        return cls._named(f"the class tree in {path}", *link(parents, f"the class tree in {path}"))

    def subset(self, ids: Iterable[str], *, rule: Rule = "nearest-ancestor") -> ClassTree:
        """Return the tree of some of the classes, in the order given; rules as in :meth:`from_wordnet`."""
        return self._below(self, self.parent_links, ids, rule)

    @classmethod
    def _below(cls, source: Hierarchy, links: Links, ids: Iterable[str], rule: Rule) -> ClassTree:
        check_choice(RULES, rule=rule)
        if isinstance(ids, str):
            raise InputError(f"ids must be a list of ids; got the single string {ids!r}")
        chosen = [str(node) for node in ids]
        rows = source.numbers(chosen).astype(np.int64)  # before the other checks, to name an unknown id first
        if not chosen:
            raise InputError(f"{cls._what} has no class; it needs one at least")
        values, first, counts = np.unique(rows, return_index=True, return_counts=True)
        if len(values) < len(rows):
            twice = chosen[first[counts > 1].min()]
            raise InputError(f"the class {twice!r} is there {counts[counts > 1].max()} times; name each once")
        return cls._named(cls._what, tuple(chosen), _links_among(links, rows, direct=rule == "direct"))

    @classmethod
    def _named(cls, what: str, ids: Sequence[str], links: Links) -> ClassTree:
        # Not through __init__, which takes a mapping: here the links are known already.
        tree = cls.__new__(cls)
        tree._what = what
        Hierarchy.__init__(tree, ids, links)
        return tree

    def wordnet_leaves(self, *, instances: bool = False, wordnet: WordNet | None = None) -> tuple[str, ...]:
        """Return the classes with nothing below them in all of WordNet, whether among the classes or not.

        Parameters
        ----------
        instances : bool, default False
            Let instances count as something below.
        wordnet : WordNet, optional
            By default :func:`load_wordnet`.

        Raises
        ------
        InputError
            A class is no noun synset of WordNet 3.0.
        """
        alone = (wordnet or load_wordnet()).is_leaf(self.ids, instances=instances)
        return self._names(np.flatnonzero(alone))

    def siblings(self, node: str, *, roots: bool = True) -> tuple[str, ...]:
        """Return the other classes that share a parent, in the order of the classes.

        Parameters
        ----------
        node : str
            The class, not among the result.
        roots : bool, default True
            Take roots for siblings of one another.
        """
        number = self.index(node)
        parents = self.parent_links[number]
        if len(parents):
            near = {int(child) for child in self.child_links.take(parents)[1]}
        else:
            near = {self.index(root) for root in self.roots} if roots else set()
        return self._names(sorted(near - {number}))

    def sibling_links(self, *, roots: bool = True) -> Links:
        """Return :meth:`siblings` of all classes; the links among r roots are r · (r − 1)."""
        n, counts = len(self), self.parent_links.counts
        positions, near = self.child_links.take(self.parent_links.indices)
        owners = self.parent_links.owners[positions]
        top = np.flatnonzero(counts == 0) if roots else np.zeros(0, dtype=np.int64)
        # Pairs (class, sibling) as single integers, so that one unique removes those found by two parents.
        keys = np.unique(np.concatenate([owners * n + near, (top[:, None] * n + top).ravel()]))
        keys = keys[keys // n != keys % n]
        return Links.from_pairs(keys // n, keys % n, n)

    def same_depth(self, node: str, *, longest: bool = False) -> tuple[str, ...]:
        """Return the other classes of the same :meth:`depth`, in the order of the classes."""
        depths = self.depths(longest=longest)
        number = self.index(node)
        alike = np.flatnonzero(depths == depths[number])
        return self._names(alike[alike != number])

    def coarsen(self, depth: int, *, choice: Choice = "first") -> Numbers:
        """Replace every class deeper than ``depth`` by its ancestor at that depth.

        This is Coarse(d) of the scaling paper. Roots have depth 0; depths and ancestors are those along
        :meth:`main_parents`, which make the tree unique where a class has several parents.

        Parameters
        ----------
        depth : int
            The largest depth that stays, 0 or more.
        choice : {"first", "shortest", "longest"}, default "first"
            Which parent is taken where there are several.

        Returns
        -------
        ndarray of int32, shape (n_classes,)
            Number of the class that stands for each: itself, or the ancestor. ``tree.coarsen(d)[y]`` turns
            labels into coarse ones.

        Raises
        ------
        InputError
            The depth isn't an integer of at least 0, or the choice is unknown.
        """
        check_integer(0, depth=depth)
        main, depths = self.main_parents(choice), self.tree_depths(choice)
        stands = np.arange(len(self), dtype=np.int32)
        # All classes that are too deep go up together, so that rounds are as many as levels.
        while len(deep := np.flatnonzero(depths[stands] > depth)):
            stands[deep] = main[stands[deep]]
        return stands

    def coarse_counts(self, *, choice: Choice = "first") -> NDArray[np.int64]:
        """Return how many classes :meth:`coarsen` leaves at every depth from 0 to the deepest, int64."""
        return np.cumsum(np.bincount(self.tree_depths(choice)))

    def to_table(self) -> Any:
        """Return the parent table (pyarrow, columns child and parent), as :meth:`from_table` reads it.

        Rows of children stand in the order of the classes; roots have an empty parent.
        """
        rows = [(child, parent) for child in self.ids for parent in (self.parents(child) or ("",))]
        children, parents = zip(*rows, strict=True)
        return pa.table({CHILD: pa.array(children, pa.string()), PARENT: pa.array(parents, pa.string())})

    def fingerprint(self) -> str:
        """Return the SHA-256 of ids and parents, in their order."""
        links = self.parent_links
        # In their given order: another order gives classes other indices, and so labels another meaning.
        return hash_json([self.ids, links.indptr.tolist(), links.indices.tolist()])


def _links_among(links: Links, rows: NDArray[np.int64], *, direct: bool) -> Links:
    """Return the parents of some nodes among themselves, numbered by their places in ``rows``."""
    owners, above = links.take(rows) if direct else breadth_first_pairs(links, rows)
    place = np.full(len(links), -1, dtype=np.int32)
    place[rows] = np.arange(len(rows))
    among = place[above] >= 0
    owners, parents = owners[among], place[above[among]]
    if not direct:
        # Ancestors of WordNet include grandparents; only the nearest ones among the classes are parents.
        near = without_shortcuts(owners, parents, len(rows))
        owners, parents = owners[near], parents[near]
    return Links.from_pairs(owners, parents, len(rows))

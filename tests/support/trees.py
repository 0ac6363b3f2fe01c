"""A simple model of what layers do to a tree: names to nodes in dictionaries, no system calls."""

from __future__ import annotations

import os
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import strategies as st

from tests.support.layers import hard_link, member, symlink, tar

LINKS_MOST = 40
ALREADY_THERE = {"proc", "sys", "dev", "tmp", "run", "etc", "root", "home", "workspace", "scratch"}
"""What a finished tree has beside what its layers made; the model's names are others."""


@dataclass(frozen=True)
class Step:
    """One entry: `file`, `dir`, `symlink`, `hard link`, `whiteout`, `opaque`."""

    kind: str
    path: str
    target: str = ""


def steps() -> st.SearchStrategy[list[Step]]:
    """One layer; entries whose names repeat are left out, as such layers are refused. Names mostly mean one kind of
    thing, so that most layers can be applied, and sometimes another, so that kinds replace each other."""

    def paths(usual: str) -> st.SearchStrategy[str]:
        parents = st.lists(st.sampled_from("abl"), max_size=2)
        return st.builds(lambda above, last: "/".join((*above, last)), parents, st.sampled_from(usual * 8 + "ablxy"))

    target = st.lists(st.sampled_from(("a", "b", "a", "b", "l", "x", "..")), min_size=1, max_size=3).map("/".join)
    step = st.one_of(
        st.builds(Step, st.just("file"), paths("xy"), paths("xy")),
        st.builds(Step, st.just("dir"), paths("ab")),
        st.builds(Step, st.just("whiteout"), paths("abxy")),
        st.builds(Step, st.just("opaque"), paths("abl")),
        st.builds(Step, st.just("symlink"), paths("l"), st.one_of(target, target.map(lambda to: "/" + to))),
        st.builds(Step, st.just("hard link"), paths("xy"), paths("xy")),
    )
    return st.lists(step, max_size=6, unique_by=lambda each: (each.kind in ("whiteout", "opaque"), each.path))


def layer_of(layer: list[Step]) -> bytes:
    """As an archive."""
    members: list[tuple[tarfile.TarInfo, bytes]] = []
    for step in layer:
        folder, _, name = f"./{step.path}".rpartition("/")
        match step.kind:
            case "file":
                members.append(member(step.path, step.target.encode()))
            case "dir":
                members.append(member(step.path + "/"))
            case "symlink":
                members.append(symlink(step.path, step.target))
            case "hard link":
                members.append(hard_link(step.path, step.target))
            case "whiteout":
                members.append(member(f"{folder}/.wh.{name}"))
            case "opaque":
                members.append(member(f"{step.path}/.wh..wh..opq"))
    return tar(*members)


class Lost(Exception):
    """A path that leads nowhere: `missing` where a directory is not there, else something stands in the way."""

    def __init__(self, *, missing: bool) -> None:
        super().__init__()
        self.missing = missing


@dataclass
class Folder:
    """A directory."""

    names: dict[str, Node] = field(default_factory=dict)


@dataclass(frozen=True)
class Link:
    """A symbolic link."""

    target: str


Node = Folder | Link | bytes


class Model:
    """A tree. A file is its content; a hard link is the same content under another name."""

    def __init__(self) -> None:
        self.root = Folder()

    def apply(self, layer: list[Step]) -> bool:
        """Whether the layer could be applied; a tree that it could not be applied to is of no use."""
        for kind, do in (("whiteout", self._remove), ("opaque", self._empty)):
            for step in layer:
                if step.kind == kind and not do(step.path):
                    return False
        return all(self._make(step) for step in layer if step.kind not in ("whiteout", "opaque"))

    def _folder(self, path: str, *, make: bool = False) -> Folder:
        """What a path leads to, links followed; above the root is the root."""
        stack, parts, links, made = [self.root], path.split("/") if path else [], 0, None
        parts = [(part, True) for part in parts]
        while parts:
            (part, own), *parts = parts
            if part in ("", "."):
                continue
            if part == "..":
                stack = stack[:-1] or stack
                continue
            node = stack[-1].names.get(part)
            if isinstance(node, Link):
                links += 1
                if links > LINKS_MOST:
                    raise Lost(missing=False)
                stack = [self.root] if node.target.startswith("/") else stack
                parts = [*((each, False) for each in node.target.split("/")), *parts]
            elif isinstance(node, Folder):
                stack.append(node)
            elif node is None and make and own:
                made = Folder()
                stack[-1].names[part] = made
                stack.append(made)
            else:
                raise Lost(missing=node is None)
        return stack[-1]

    def _parent(self, path: str, *, make: bool) -> tuple[Folder, str]:
        folder, _, name = path.rpartition("/")
        return self._folder(folder, make=make), name

    def _remove(self, path: str) -> bool:
        try:
            folder, name = self._parent(path, make=False)
        except Lost as lost:
            return lost.missing or self._in_the_way(path)
        folder.names.pop(name, None)
        return True

    def _in_the_way(self, path: str) -> bool:
        """A file where a directory should be: nothing to take away. Links in a circle: refused."""
        folder = path.rpartition("/")[0]
        try:
            self._folder(folder)
        except Lost as lost:
            return lost.missing or not self._circles(folder)
        return True

    def _circles(self, path: str) -> bool:
        """Whether it is lost for links alone."""
        seen = 0
        stack, parts = [self.root], path.split("/")
        while parts:
            part, *parts = parts
            if part in ("", "."):
                continue
            if part == "..":
                stack = stack[:-1] or stack
                continue
            node = stack[-1].names.get(part)
            if isinstance(node, Link):
                seen += 1
                if seen > LINKS_MOST:
                    return True
                stack = [self.root] if node.target.startswith("/") else stack
                parts = [*node.target.split("/"), *parts]
            elif isinstance(node, Folder):
                stack.append(node)
            else:
                return False
        return False

    def _empty(self, path: str) -> bool:
        try:
            self._folder(path).names.clear()
        except Lost as lost:
            return lost.missing or not self._circles(path)
        return True

    def _make(self, step: Step) -> bool:
        try:
            folder, name = self._parent(step.path, make=True)
            there = folder.names.get(name)
            match step.kind:
                case "dir":
                    if not isinstance(there, Folder):
                        folder.names[name] = Folder()
                case "file":
                    folder.names[name] = step.target.encode()
                case "symlink":
                    folder.names[name] = Link(step.target)
                case "hard link":
                    return self._hard_link(step, folder, name)
        except Lost:
            return False
        return True

    def _hard_link(self, step: Step, folder: Folder, name: str) -> bool:
        there = folder.names.get(name)
        source, other = self._parent(step.target, make=False)
        if there is not None and source is folder and other == name:
            return True
        folder.names.pop(name, None)
        source, other = self._parent(step.target, make=False)
        target = source.names.get(other)
        if target is None or isinstance(target, Folder):
            return False
        folder.names[name] = target
        return True

    def listing(self) -> dict[str, str]:
        """Path to what is there."""
        found: dict[str, str] = {}

        def walk(folder: Folder, path: str) -> None:
            for name, node in folder.names.items():
                at = f"{path}/{name}"
                match node:
                    case Folder():
                        found[at] = "dir"
                        walk(node, at)
                    case Link():
                        found[at] = f"-> {node.target}"
                    case _:
                        found[at] = f"file {node.decode()}"

        walk(self.root, "")
        return found

    @staticmethod
    def of(tree: Path) -> dict[str, str]:
        """The same of a real tree, without what every tree gets."""
        found: dict[str, str] = {}
        for base, folders, files in os.walk(tree):
            if Path(base) == tree:
                folders[:] = [name for name in folders if name not in ALREADY_THERE]
            for name in (*folders, *files):
                path = Path(base) / name
                at = f"/{path.relative_to(tree)}"
                if path.is_symlink():
                    found[at] = f"-> {path.readlink()}"
                else:
                    found[at] = "dir" if path.is_dir() else f"file {path.read_text()}"
        return found

"""Checks for the exercises of lesson 11: checkpoints."""

from babygpt.exercises.checker import EXERCISES, Exercise

# ---- 11.1 Whole or not at all


class Disk(dict):
    """A disk that remembers what a kill would have left, after each operation."""

    def __init__(self, files: dict[str, str]):
        super().__init__(files)
        self.moments = []

    def note(self):
        self.moments.append(dict(self))

    def __setitem__(self, name, data):
        for content in "", data:  # a file is made empty, then filled
            super().__setitem__(name, content)
            self.note()

    def __delitem__(self, name):
        super().__delitem__(name)
        self.note()

    def rename(self, old, new):
        super().__setitem__(new, self.pop(old))
        self.note()


def what_holds_for_a_save(f, files, name, data):
    disk = Disk(files)
    f(disk, name, data)
    if not disk.moments:
        return None
    whole = files.get(name), data
    always = all(moment.get(name) in whole for moment in disk.moments)
    may_be_left = {*files, name} - {name + ".tmp"}
    return {
        f"killed at any moment, the old {name} or the whole new one is there": always,
        f"in the end {name} is the new one": disk.get(name) == data,
        "nothing else is left": disk.keys() <= may_be_left,
    }


def save(disk, name, data):
    disk[name + ".tmp"] = data
    disk.rename(name + ".tmp", name)


def save_into_the_file(disk, name, data):
    disk[name] = data


def save_after_deleting(disk, name, data):
    disk[name + ".tmp"] = data
    if name in disk:
        del disk[name]
    disk.rename(name + ".tmp", name)


def save_by_copying(disk, name, data):
    disk[name + ".tmp"] = data
    disk[name] = disk[name + ".tmp"]


def save_beside(disk, name, data):
    disk[name + ".tmp"] = data


def save_cases():
    yield {}, "a", "new"
    yield {"a": "old"}, "a", "new"
    yield {"a": "old", "b": "other"}, "a", "longer than that"
    yield {"a": "old", "a.tmp": "ne"}, "a", "new"


EXERCISES["11.1"] = Exercise(
    save,
    save_cases,
    mistakes={
        "writes into the file itself: killed between making and filling it, "
        "neither the old nor the new one is there": save_into_the_file,
        "deletes the old one first: "
        "killed after that, there is none": save_after_deleting,
        "leaves a second file behind, "
        "and the first is empty for a moment all the same: "
        "fill another and give it the name": save_by_copying,
        "never gives the new file its name": save_beside,
    },
    observe=what_holds_for_a_save,
)


# ---- 11.2 The last whole one


def step_of(folder):
    return int(folder[5:].removesuffix(".tmp"))


def finished(folders):
    return [name for name in folders if not name.endswith(".tmp")]


def undamaged(folders, damaged):
    return [name for name in folders if name not in damaged]


def go_on_from(folders, damaged):
    whole = undamaged(finished(folders), damaged)
    return max(whole, key=step_of, default="")


def last_word(folders, damaged):
    whole = undamaged(finished(folders), damaged)
    return max(whole, default="")


def newest_even_unfinished(folders, damaged):
    return max(undamaged(folders, damaged), key=step_of, default="")


def newest_even_damaged(folders, damaged):
    return max(finished(folders), key=step_of, default="")


def last_of_the_list(folders, damaged):
    whole = undamaged(finished(folders), damaged)
    return whole[-1] if whole else ""


def oldest(folders, damaged):
    whole = undamaged(finished(folders), damaged)
    return min(whole, key=step_of, default="")


def newest_or_nothing(folders, damaged):
    newest = newest_even_damaged(folders, damaged)
    return "" if newest in damaged else newest


def go_on_from_cases():
    yield [], []
    yield ["step_000004"], []
    yield ["step_000004", "step_000008"], []
    yield ["step_000008", "step_000004"], []
    yield ["step_000004", "step_000008", "step_000012.tmp"], []
    yield ["step_000004", "step_000008"], ["step_000008"]
    yield ["step_000004", "step_000008"], ["step_000008", "step_000004"]
    yield ["step_1000000", "step_999000"], []


EXERCISES["11.2"] = Exercise(
    go_on_from,
    go_on_from_cases,
    mistakes={
        "compares names as words: "
        "step_999000 comes after step_1000000 there": last_word,
        "takes one that was not finished (.tmp)": newest_even_unfinished,
        "takes a damaged one": newest_even_damaged,
        "takes the last of the list: the names come in any order": last_of_the_list,
        "takes the oldest one: all that was learned since is lost": oldest,
        "gives up where the newest is damaged: "
        "there may be a whole one before it": newest_or_nothing,
    },
)

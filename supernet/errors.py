"""What can go wrong in the torch world, as one tree."""


class SupernetError(Exception):
    """Any failure of this floor; its message says the rule, the value, what exists and how to fix it."""


class DataError(SupernetError):
    """Rows that cannot be read, or that cannot be trained or tested on."""


class TeacherError(SupernetError):
    """A checkpoint that is no BERT, or whose head does not match the task."""


class CheckpointError(SupernetError):
    """A file of weights that is corrupt, foreign, or cannot be written."""


class TrainingError(SupernetError):
    """A training that diverged."""


class ProcessesError(SupernetError):
    """Processes that train together and have lost each other, or do not see the same files."""


class StageError(SupernetError):
    """A stage of a training that cannot be taught as it stands."""

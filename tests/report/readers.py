"""Studies read from work directories of one kind, as a report reads them."""

from scaling.report.contents import read_kinds


def read_studies(workdirs):
    [(_, studies)] = read_kinds(workdirs)
    return studies


def read_study(workdir):
    [study] = read_studies([workdir])
    return study

"""The audit of the locks reads pip-audit's report as pip-audit documents it."""

from tools.release import LOCKS, read_report

from tests.house.test_house import ROOT

_REPORT = {
    "dependencies": [
        {"name": "anyio", "version": "4.0.0", "vulns": []},
        {
            "name": "pillow",
            "version": "9.0.0",
            "vulns": [
                {
                    "id": "PYSEC-2022-9",
                    "fix_versions": ["9.0.1"],
                    "aliases": ["CVE-2022-22816"],
                    "description": "out-of-bounds read",
                },
                {"id": "PYSEC-2022-10", "fix_versions": [], "description": ""},
            ],
        },
        {"name": "ours", "skip_reason": "Dependency not found on PyPI"},
    ],
    "fixes": [],
}


def test_vulnerabilities_are_named_with_the_version_that_fixes_them():
    result = read_report("core", _REPORT)
    assert result.vulnerabilities == [
        "pillow 9.0.0: PYSEC-2022-9, fixed in 9.0.1",
        "pillow 9.0.0: PYSEC-2022-10, fixed in no version yet",
    ]


def test_a_package_without_advisories_is_not_counted_as_checked():
    result = read_report("core", _REPORT)
    assert result.checked == ["anyio 4.0.0", "pillow 9.0.0"]
    assert result.unknown == ["ours"]


def test_every_lock_is_audited():
    locks = {path.stem for path in (ROOT / "requirements").glob("*.txt")}
    assert locks == set(LOCKS)

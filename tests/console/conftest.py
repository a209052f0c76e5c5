"""A browser shared by all of these tests.

Without a browser, or without a way to build the page, the tests are skipped with the
reason.
"""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from playwright.sync_api import Error as PlaywrightError
from tools.show.browser import browser, build


@pytest.fixture(scope="module")
def web_browser() -> Iterator[Any]:
    with ExitStack() as stack:
        try:
            build()
            browser_instance = stack.enter_context(browser())
        except subprocess.CalledProcessError:
            pytest.skip(
                "the console cannot be built here: neither Node 20 nor a package of it"
            )
        except PlaywrightError as error:
            pytest.skip(f"Chromium does not start here: {str(error)[:200]}")
        yield browser_instance

"""Which files an app accepts: the restrictions that a form field or a chat declares."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from modelyard.base.json_types import EMPTY_OBJECT, is_array, is_mapping
from modelyard.workflow.nodes.start import FormField, InputError
from modelyard.workflow.variables import File

_FAILED = "File validation failed"


class FileRules(msgspec.Struct, frozen=True, kw_only=True):
    """Restrictions on the files of one form field or of one message. Empty ones allow
    everything."""

    types: frozenset[str] = frozenset()
    extensions: frozenset[str] = frozenset()
    """In lower case, with the dot. They count for the type `custom`, or if no types are
    declared."""
    methods: frozenset[str] = frozenset()
    image_methods: frozenset[str] = frozenset()
    """The methods for images; empty if they are the same as for other files."""
    max_files: int = 0
    max_images: int = 0

    @property
    def needs_type(self) -> bool:
        """Whether a file's type decides if it is accepted."""
        return bool(self.types or self.extensions or self.image_methods)

    def check(self, file: File, real_type: str) -> None:
        """Raise InputError if a file is not accepted. `real_type` is the type of its
        content, which the caller may have stated otherwise."""
        # Files that the app's own tools created are not uploads.
        if file.transfer_method == "tool_file":
            return
        methods = self.methods
        if real_type == "image" and self.image_methods:
            methods = self.image_methods
        if methods and file.transfer_method not in methods:
            raise InputError(
                f"{_FAILED}: {file.filename!r} was sent as {file.transfer_method}, only"
                f" {_listed(methods)} is allowed"
            )
        if not self._accepts_type(file, real_type):
            # To a person the word `custom` says nothing; the extensions do.
            allowed = self.types - {"custom"} or self.extensions
            if "custom" in self.types:
                allowed |= self.extensions
            raise InputError(
                f"{_FAILED}: {file.filename!r} is of type {real_type}, only"
                f" {_listed(allowed)} is allowed"
            )

    def _accepts_type(self, file: File, real_type: str) -> bool:
        """Return whether a file has one of the types or extensions."""
        # Files of no known type are `custom` as well: only their extensions decide.
        if real_type != "custom" and real_type in self.types:
            return True
        if "custom" in self.types or not self.types:
            has_extension = file.extension.lower() in self.extensions
            return has_extension or not self.extensions
        return False

    def check_count(self, files: Sequence[File]) -> None:
        """Raise InputError if there are too many files."""
        images = [file for file in files if file.type == "image"]
        if self.max_images and len(images) > self.max_images:
            raise _too_many(images, "images", self.max_images)
        if self.max_files and len(files) > self.max_files:
            raise _too_many(files, "files", self.max_files)


ANY_FILE = FileRules()


def rules_of_field(field: FormField) -> FileRules:
    """Return the restrictions of a form field. The number of files in a list is checked
    with the other limits of the form."""
    return FileRules(
        types=_texts(field.allowed_file_types),
        extensions=_extensions(field.allowed_file_extensions),
        methods=_texts(field.allowed_file_upload_methods),
    )


def rules_of_input(form_input: Mapping[str, Any]) -> FileRules:
    """Return the restrictions of an input of a human-input form. A list of files has its
    number here; 0 means any number."""
    is_list = form_input.get("type") == "file-list"
    return FileRules(
        types=_texts(form_input.get("allowed_file_types")),
        extensions=_extensions(form_input.get("allowed_file_extensions")),
        methods=_texts(form_input.get("allowed_file_upload_methods")),
        max_files=_count(form_input.get("number_limits")) if is_list else 0,
    )


def rules_of_features(features: Mapping[str, Any]) -> FileRules:
    """Return the restrictions on the files of a message. Apps of old versions only have
    those for images."""
    upload = features.get("file_upload")
    if not is_mapping(upload):
        return ANY_FILE
    image = upload.get("image")
    image = image if is_mapping(image) else EMPTY_OBJECT
    # A section that was switched off keeps its values in the file.
    has_images = bool(image.get("enabled"))
    if not upload.get("enabled"):
        # The old form: images only.
        if not has_images:
            return ANY_FILE
        return FileRules(
            types=frozenset({"image"}),
            methods=_texts(image.get("transfer_methods")),
            max_files=_count(image.get("number_limits")),
        )
    return FileRules(
        types=_texts(upload.get("allowed_file_types")),
        extensions=_extensions(upload.get("allowed_file_extensions")),
        methods=_texts(upload.get("allowed_file_upload_methods")),
        image_methods=_texts(image.get("transfer_methods"))
        if has_images
        else frozenset(),
        max_files=_count(upload.get("number_limits")),
        max_images=_count(image.get("number_limits")) if has_images else 0,
    )


def _texts(value: Any) -> frozenset[str]:
    """Return the texts of a list; empty for another value."""
    return frozenset(str(text) for text in value) if is_array(value) else frozenset()


def _extensions(value: Any) -> frozenset[str]:
    """Return extensions in lower case with a dot; files state them in both ways."""
    return frozenset(
        f".{extension.lower().strip().lstrip('.')}" for extension in _texts(value)
    )


def _count(value: Any) -> int:
    """Return a limit; 0 if it is missing or no number."""
    # In Python `true` is an integer, and would become a limit of 1.
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _listed(names: Iterable[str]) -> str:
    """Return names in a stable order, for a message."""
    return ", ".join(sorted(names))


def _too_many(files: Sequence[File], name: str, max_count: int) -> InputError:
    """Return the error for more files than an app accepts."""
    allowed = f"at most {max_count} are allowed"
    return InputError(f"{_FAILED}: {len(files)} {name}, {allowed}")

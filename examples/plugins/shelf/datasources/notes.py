from collections.abc import Generator, Mapping
from typing import Any

from dify_plugin.entities.datasource import (
    DatasourceGetPagesResponse,
    DatasourceMessage,
    GetOnlineDocumentPageContentRequest,
    OnlineDocumentInfo,
    OnlineDocumentPage,
)
from dify_plugin.interfaces.datasource.online_document import OnlineDocumentDatasource

NOTES = {"1": "Water the plants.", "2": "Call the plumber.", "3": "Read a book."}


class NotesDatasource(OnlineDocumentDatasource):
    def _get_pages(
        self, datasource_parameters: Mapping[str, Any]
    ) -> DatasourceGetPagesResponse:
        pages = [
            OnlineDocumentPage(
                page_id=name,
                page_name=f"Note {name}",
                page_icon=None,
                type="page",
                last_edited_time="2026-11-21T00:00:00Z",
                parent_id=None,
            )
            for name in NOTES
        ]
        info = OnlineDocumentInfo(
            workspace_id="shelf",
            workspace_name="Shelf",
            workspace_icon="",
            total=len(pages),
            pages=pages,
        )
        return DatasourceGetPagesResponse(result=[info])

    def _get_content(
        self, page: GetOnlineDocumentPageContentRequest
    ) -> Generator[DatasourceMessage, None, None]:
        yield self.create_variable_message("content", NOTES[page.page_id])
        yield self.create_variable_message("page_id", page.page_id)
        yield self.create_variable_message("workspace_id", page.workspace_id)

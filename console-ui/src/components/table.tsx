import type { ReactNode } from "react";

export interface Column<Row> {
  title: string;
  cell: (row: Row) => ReactNode;
  isNumber?: boolean;
}

// A plain table: at most some hundred rows. Long lists are `Rows`.
export const Table = <Row,>({
  caption,
  columns,
  rows,
  id,
}: {
  caption: string;
  columns: Column<Row>[];
  rows: readonly Row[];
  id: (row: Row) => string;
}) => (
  <div className="scroll" tabIndex={0} role="group" aria-label={caption}>
    <table>
      <caption className="hidden">{caption}</caption>
      <thead>
        <tr>
          {columns.map((one) => (
            <th key={one.title} scope="col" className={one.isNumber ? "number" : ""}>
              {one.title}
            </th>
          ))}
        </tr>
      </thead>
      <tbody>
        {rows.map((row) => (
          <tr key={id(row)}>
            {columns.map((one, place) =>
              place === 0 ? (
                <th key={one.title} scope="row">
                  {one.cell(row)}
                </th>
              ) : (
                <td key={one.title} className={one.isNumber ? "number" : ""}>
                  {one.cell(row)}
                </td>
              ),
            )}
          </tr>
        ))}
      </tbody>
    </table>
  </div>
);

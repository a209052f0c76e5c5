import { useEffect, useRef } from "react";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { useChosen } from "../settings";

export interface Series {
  name: string;
  values: (number | null)[];
}

const COLOURS = ["--line-1", "--line-2", "--line-3", "--line-4", "--line-5", "--line-6"];

// Bars over time, stacked. The same numbers stand in the table beside it: the picture adds nothing that cannot be read.
export const Chart = ({
  label,
  times,
  series,
  shown,
  height = 220,
}: {
  label: string;
  times: number[];
  series: Series[];
  shown: (value: number) => string;
  // In pixels.
  height?: number;
}) => {
  const { language, theme } = useChosen();
  const container = useRef<HTMLDivElement>(null);
  // biome-ignore lint/correctness/useExhaustiveDependencies: colours and numbers change with theme and language
  useEffect(() => {
    const box = container.current;
    if (!box) return undefined;
    const style = getComputedStyle(document.documentElement);
    const colour = (name: string) => style.getPropertyValue(name).trim();
    const stacked: (number | null)[][] = [];
    for (const [at, line] of series.entries())
      stacked.push(line.values.map((value, x) => (value ?? 0) + (at ? (stacked[at - 1]?.[x] ?? 0) : 0)));
    const axis = {
      stroke: colour("--soft"),
      grid: { stroke: colour("--line"), width: 1 },
      ticks: { stroke: colour("--line"), width: 1 },
    };
    const bars = uPlot.paths.bars!({ size: [0.7, 60] });
    const plot = new uPlot(
      {
        width: box.clientWidth,
        height,
        legend: { show: false },
        cursor: { show: false },
        axes: [axis, { ...axis, size: 80, values: (_, values) => values.map((value) => shown(value)) }],
        scales: { y: { range: (_, __, max) => [0, (max || 1) * 1.1] } },
        // Later series lie behind: each bar is drawn to its sum, the first on top.
        series: [
          {},
          ...series
            .map((line, at) => ({ label: line.name, fill: colour(COLOURS[at % COLOURS.length]!), paths: bars }))
            .reverse(),
        ],
      },
      [times, ...[...stacked].reverse()] as uPlot.AlignedData,
      box,
    );
    const watch = new ResizeObserver(() => plot.setSize({ width: box.clientWidth, height }));
    watch.observe(box);
    return () => {
      watch.disconnect();
      plot.destroy();
    };
  }, [times, series, shown, height, language, theme]);
  return (
    <figure className="chart">
      <div ref={container} role="img" aria-label={label} />
      <figcaption className="row">
        {series.map((line, at) => (
          <span key={line.name} className="soft">
            <i className={`swatch c${(at % COLOURS.length) + 1}`} /> {line.name}
          </span>
        ))}
      </figcaption>
    </figure>
  );
};

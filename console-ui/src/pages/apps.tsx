import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { type ChangeEvent, type DragEvent, useState } from "react";
import { api, type App, type Imported } from "../api";
import { Copied, Trouble } from "../parts";
import { useChosen } from "../settings";

// Apps: import files by dropping them, publish drafts, and put them on a page that people use.
export const Apps = () => {
  const { words } = useChosen();
  const client = useQueryClient();
  const apps = useQuery({ queryKey: ["apps"], queryFn: api.apps });
  const [told, setTold] = useState<{ file: string; made?: Imported; trouble?: string }[]>([]);
  const [isOver, setOver] = useState(false);

  const take = async (files: Iterable<File>) => {
    setTold([]);
    for (const file of files) {
      try {
        const made = await api.importApp(await file.text());
        setTold((all) => [...all, { file: file.name, made }]);
      } catch (error) {
        setTold((all) => [...all, { file: file.name, trouble: (error as Error).message || words.lost }]);
      }
    }
    await client.invalidateQueries({ queryKey: ["apps"] });
  };
  const drop = (event: DragEvent) => {
    event.preventDefault();
    setOver(false);
    void take(event.dataTransfer.files);
  };
  const choose = (event: ChangeEvent<HTMLInputElement>) => {
    void take([...(event.target.files ?? [])]);
    event.target.value = "";
  };
  return (
    <>
      <h1>{words.apps}</h1>
      <Trouble of={[apps]} />
      <section
        className={`card drop${isOver ? " over" : ""}`} aria-label={words.importTitle} onDrop={drop}
        onDragOver={(event) => { event.preventDefault(); setOver(true); }} onDragLeave={() => setOver(false)}
      >
        <label>{words.importText}<input type="file" accept=".yml,.yaml,.json" multiple onChange={choose} /></label>
        <div role="status">
          {told.map((one) => (
            <div key={one.file}>
              <p className={one.trouble ? "wrong" : ""}><strong>{one.file}</strong>: {one.trouble ?? words.imported}</p>
              {one.made && one.made.needs.length > 0 && <p className="soft">{words.needs} {one.made.needs.join(", ")}</p>}
              {one.made?.warnings.map((line) => <p className="soft" key={line}>{line}</p>)}
            </div>
          ))}
        </div>
      </section>
      {apps.data && !apps.data.length && <p className="soft">{words.noApps}</p>}
      {(apps.data ?? []).map((one) => <One key={one.id} app={one} />)}
    </>
  );
};

const One = ({ app }: { app: App }) => {
  const { words } = useChosen();
  const client = useQueryClient();
  const change = useMutation({
    mutationFn: (what: () => Promise<unknown>) => what(),
    onSettled: () => client.invalidateQueries({ queryKey: ["apps"] }),
  });
  return (
    <article className="card" aria-label={app.name}>
      <h2>{app.name} <span className="soft">{app.mode}</span></h2>
      {app.description && <p>{app.description}</p>}
      <p className="soft">{app.is_published ? words.published : words.neverPublished}{app.has_draft ? ` · ${words.hasDraft}` : ""}</p>
      {change.error && <p className="wrong" role="alert">{change.error.message || words.lost}</p>}
      <div className="row">
        {app.has_draft && <button type="button" onClick={() => change.mutate(() => api.publish(app.id))}>{words.publish}</button>}
        {app.is_published && (
          <button type="button" aria-pressed={app.page.is_on} onClick={() => change.mutate(() => api.setPage(app.id, !app.page.is_on))}>
            {app.page.is_on ? words.pageOff : words.pageOn}
          </button>
        )}
        {app.page.url && <><a href={app.page.url} target="_blank" rel="noopener">{words.openPage}</a><Copied text={app.page.url} /></>}
      </div>
    </article>
  );
};

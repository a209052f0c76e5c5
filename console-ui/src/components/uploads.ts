import { api } from "../api";
import { useDo } from "./actions";

// Files for an app that somebody tries in the console.
export const useUpload = (app: string) =>
  useDo((files: File[]) =>
    Promise.all(
      files.map(async (file) => ({
        transfer_method: "local_file",
        upload_file_id: (await api.appFileFor(app, file)).id,
      })),
    ),
  ).run;

import { useMutation, useQueryClient } from "@tanstack/react-query";
import { useToast, useWrong } from "./base";

// Do something, say how it went, and have what it touched asked for again.
export const useDo = <A extends unknown[], R>(work: (...given: A) => Promise<R>, touches: string[] = [], done = "") => {
  const client = useQueryClient();
  const toast = useToast();
  const said = useWrong();
  const it = useMutation({
    mutationFn: (given: A) => work(...given),
    onError: (error) => toast(said(error), true),
    onSuccess: () => {
      if (done) toast(done);
    },
    onSettled: () => Promise.all(touches.map((key) => client.invalidateQueries({ queryKey: [key] }))),
  });
  return {
    run: (...given: A) => it.mutateAsync(given).catch(() => undefined),
    isBusy: it.isPending,
    error: it.error,
    data: it.data,
  };
};

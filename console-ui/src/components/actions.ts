import { useMutation, useQueryClient } from "@tanstack/react-query";
import { useToast, useWrong } from "./base";

// Do something, say how it went, and have what it touched asked for again.
export const useDo = <A extends unknown[], R>(work: (...args: A) => Promise<R>, touches: string[] = [], done = "") => {
  const client = useQueryClient();
  const toast = useToast();
  const errorText = useWrong();
  const mutation = useMutation({
    mutationFn: (args: A) => work(...args),
    onError: (error) => toast(errorText(error), true),
    onSuccess: () => {
      if (done) toast(done);
    },
    onSettled: () => Promise.all(touches.map((key) => client.invalidateQueries({ queryKey: [key] }))),
  });
  return {
    run: (...args: A) => mutation.mutateAsync(args).catch(() => undefined),
    isBusy: mutation.isPending,
    error: mutation.error,
    data: mutation.data,
  };
};

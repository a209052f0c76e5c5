// What a browser keeps for us. Some keep nothing, as in a frame on another site: the page works until it is closed.
export const browserStorage = {
  get(name: string): string | null {
    try {
      return localStorage.getItem(name);
    } catch {
      return null;
    }
  },
  set(name: string, value: string) {
    try {
      localStorage.setItem(name, value);
    } catch {
      // it is forgotten with the page
    }
  },
};

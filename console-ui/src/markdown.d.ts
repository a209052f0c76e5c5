declare module "*/markdown.js" {
  export const markdown: (text: string) => DocumentFragment;
}

// The types of a library that http/static.ts serves beside the page.
export * from "uqr";

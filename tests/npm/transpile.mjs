// node transpile.mjs FOLDER: every .ts below it becomes a .js beside it that node can import; types are not checked.
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import ts from 'typescript';

const options = { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext };
for (const file of readdirSync(process.argv[2], { recursive: true }).filter(name => name.endsWith('.ts'))) {
  const path = join(process.argv[2], file);
  const { outputText } = ts.transpileModule(readFileSync(path, 'utf8'), { compilerOptions: options });
  writeFileSync(path.slice(0, -3) + '.js', outputText.replace(/(from\s+")(\.{1,2}\/[^"]*)(")/g, '$1$2.js$3'));
}

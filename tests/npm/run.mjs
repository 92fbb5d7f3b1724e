// node run.mjs SCENARIO URL DATABASE: exit code 0 if the scenario holds, else the error on stderr.
import * as scenarios from './scenarios.mjs';

const [name, url, db] = process.argv.slice(2);
process.on('unhandledRejection', error => { console.error(error); process.exit(1); });
try {
  await scenarios[name]({ url, db });
  process.exit(0);
} catch (error) {
  console.error(error);
  process.exit(1);
}

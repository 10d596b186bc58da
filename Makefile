.DEFAULT_GOAL := help
.PHONY: help demo live test matrix test-kafka bench patterns chaos mutants model lint fuzz examples ci clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## three nodes keep their caches coherent: REDIS_ADDR=host:port uses a server that runs, else one is started
	@test -n "$(REDIS_ADDR)" || scripts/install redis-server
	@cd examples && go run ./quickstart

live: ## open a page that shows coherence happening; REDIS_ADDR=host:port uses a server that runs, else one is started
	@test -n "$(REDIS_ADDR)" || scripts/install redis-server
	@cd examples && go run ./live -open

test: ## test every module with the race detector, against a real redis-server; TESTFLAGS go to go test
	@scripts/test $(TESTFLAGS)

matrix: ## test on every server version that can be fetched, with and without I/O threads; VERSIONS and RUN narrow it
	@scripts/matrix

test-kafka: ## test broadcast/kafka on a real Apache Kafka, which Maven fetches; TESTFLAGS go to go test
	@scripts/test-kafka $(TESTFLAGS)

bench: ## measure side by side with other caches, as ratios within one run
	@scripts/install redis-server
	@cd bench && go run .

patterns: ## compare ways to tell other nodes of a change, and write the table of docs/patterns-of-communication.md
	@scripts/install redis-server rabbitmq-server
	@cd examples && go run ./patterns -docs ../docs

chaos: ## readers, writers and faults, every read judged: DURATION (default 1m), SEED (default: a random one), TOPOLOGY (single, cluster, sentinel)
	@scripts/install redis-server
	@cd chaos && go run . -topology $(or $(TOPOLOGY),single) -duration $(or $(DURATION),1m) -seed $(or $(SEED),0)

mutants: ## run caches that are broken on purpose under the same judge, to see each of them caught
	@scripts/install redis-server
	@cd chaos && go run . -mutant all

model: ## check the protocol in a model checker, and that it fails without each of its precautions
	@model/check

lint: ## check format, go vet and golangci-lint
	@scripts/lint

fuzz: ## fuzz each target for FUZZTIME (default 10s)
	@scripts/fuzz

examples: ## build and run every example
	@scripts/examples

ci: ## what the continuous integration runs
	@.ci/run

clean: ## remove what was built
	@rm -rf bin

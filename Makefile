# Everything is a Go program: this file only gives the programs short names.

GO ?= go
SEEDS ?= 200
SEED ?=
RUNS ?= 5

.PHONY: build demo test test-vm model bench sim generate lint

build: ## bin/holdfast
	$(GO) build -trimpath -o bin/holdfast ./cmd/holdfast

demo: build ## three nodes on this machine, a web service, a crash, the move; leaves the cluster to play with
	./bin/holdfast lab demo

test: ## everything that must hold; as root nothing may be skipped
	$(GO) run ./internal/testrun

test-vm: ## what needs a kernel of its own: reservations, resets by a watchdog; in QEMU, at most 10 minutes
	$(GO) run ./internal/vmtest

lint: ## the quick half of test: gofmt, vet, staticcheck, the rules of internal/archtest
	$(GO) run ./internal/testrun -only rules,vet,staticcheck

model: ## protocol models: every state, and that broken variants are found out (about a minute)
	$(GO) run ./internal/testrun -only needs,models

bench: build ## Go benchmarks, and a short failover measurement in a lab
	$(GO) test -run '^$$' -bench . -benchmem ./...
	./bin/holdfast lab bench failover --runs $(RUNS)

sim: ## SEEDS=N fresh seeds, or SEED=S for one again with its whole trace
	$(GO) run ./internal/sim/simrun $(if $(SEED),-seed $(SEED) -v,-seeds $(SEEDS))

generate: ## Go code and docs/attributes.md from .proto files
	$(GO) run ./internal/protogen

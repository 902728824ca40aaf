# The three commands a newcomer needs. Each first installs the Debian packages it lacks (scripts/setup),
# then goes through the one door that CI uses too: `cargo xtask`.

.PHONY: help demo test bench setup

help:
	@echo "make demo    watch a write survive the death of the leader"
	@echo "make test    everything CI runs: format, lints, unit, differential, client, crash and simulation tests"
	@echo "make bench   Farkeep beside redis-server, as tables"

demo:
	@scripts/setup demo
	@cargo xtask demo $(ARGS)

test:
	@scripts/setup test
	@cargo xtask ci $(ARGS)

bench:
	@scripts/setup bench
	@cargo xtask bench $(ARGS)

setup:
	@scripts/setup test

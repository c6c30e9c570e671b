# make run    the training notebook on this machine, into runs/laptop/05_train.ipynb
# make test   every notebook and every test, as CI runs them
# make lab    JupyterLab on the notebooks
PYTHON ?= python3.11
VENV   ?= .venv
README ?= README.md
BIN    := $(abspath $(VENV))/bin

.PHONY: run test lab readme clean

# Made anew when the dependencies change; the stamp is written last, so a broken install is never taken for a whole one.
$(VENV)/.installed: settings.ini setup.py constraints.txt
	@echo 'installing into $(VENV): a few minutes the first time'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

.venv: $(VENV)/.installed

run: $(VENV)/.installed
	mkdir -p runs/laptop
	$(BIN)/papermill --log-output --no-progress-bar nbs/05_train.ipynb runs/laptop/05_train.ipynb

test: $(VENV)/.installed
	$(BIN)/nbdev_test --n_workers 1 --timing
	$(BIN)/pytest tests

lab: $(VENV)/.installed
	$(BIN)/jupyter lab nbs/index.ipynb

# Links in the index are relative to nbs/, where Jupyter opens it; the README's are relative to the root.
readme: $(VENV)/.installed
	$(BIN)/jupyter nbconvert --log-level WARN --to markdown --stdout \
	    --TagRemovePreprocessor.enabled=True \
	    --TagRemovePreprocessor.remove_cell_tags=picture nbs/index.ipynb \
	  | sed -E -e 's#\]\(([0-9a-z_/]+\.ipynb)#](nbs/\1#g' -e 's#\]\(\.\./#](#g' > $(README)

clean:
	rm -rf $(VENV) build dist *.egg-info runs data .pytest_cache .hypothesis

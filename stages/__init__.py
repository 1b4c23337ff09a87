"""The pipeline, one file a stage, named as in dvc.yaml. Run one as `python -m stages.NAME`.

A script path (`python stages/gguf.py`) would put this folder on the import path, where gguf.py hides the gguf package.
"""

from ingot.exact import pins

pins.pin()

"""What things are: conventions, records, datasets, stored arrays and errors. numpy, pydantic and yaml only.

`schemas.voxels`, the walk through a voxel grid that both middle rooms need, compiles its kernels with numba; nothing
else here imports it.
"""

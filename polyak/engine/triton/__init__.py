"""The GPU engine: a rule's graph as a Triton kernel, over a table in device memory.

It is made of the same graph as the CPU engine's kernel, with another table of operators
(:mod:`.operators`), and stands behind the same interface: a :class:`.bucket.Bucket`.

- :mod:`.source` writes the kernel of a graph, :mod:`.sums` that of one with sums, and
  :mod:`.program` that of its scalars; they share :mod:`.body`,
  :mod:`.text` and, with sums, :mod:`.frame`;
- :mod:`.numerics` and :mod:`.sharing` are what kernels call;
- :mod:`.chunks` and :mod:`.units` say what each program does, :mod:`.tiles` in what
  steps;
- :mod:`.modules` makes functions of the two texts;
- :mod:`.table` keeps the table on the device;
- :mod:`.bucket` launches; :mod:`.live` does where scalars stay on the device.

Triton is imported when a first kernel is made.
"""

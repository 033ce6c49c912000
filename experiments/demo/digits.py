"""Search a small convolutional network for handwritten digits: accuracy against latency measured on this machine."""

import nas
from searchspaces import conv

task = nas.digits()
supernet = conv.supernet()
training = nas.Training(supernet, task, path="runs/digits", sampler=nas.Sandwich(2), loss=nas.InPlace(), steps=400)

study = nas.Study(
    "digits",
    space=supernet.space,
    objectives=["max accuracy", "min latency_ms"],
    evaluators=[nas.Accuracy(training, task), nas.Costs(supernet), nas.Latency(supernet)],
    algorithm=nas.NSGA2(population=24),
    training=training,
    store="runs/digits.db",
    trials=120,
)

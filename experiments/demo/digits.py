"""Search small convolutional networks for handwritten digits: accuracy against latency measured on this machine."""

import nas
from searchspaces import conv

task = nas.digits(shift=1)  # 1,797 real 8x8 images, offline; shifted by up to a pixel in training
supernet = conv.supernet()  # one set of weights for every network of the space
training = nas.Training(
    supernet, task, path="runs/digits", steps=300, lr=1e-2, sampler=nas.Sandwich(2), loss=nas.InPlace(labels=0.5)
)

study = nas.Study(
    "digits",
    space=supernet.space,
    objectives=["max accuracy", "min latency_ms"],
    evaluators=[nas.Accuracy(training, task), nas.Costs(training), nas.Latency(training)],
    algorithm=nas.NSGA2(population=24),
    training=training,  # what `nas train` runs
    store="runs/digits.db",
    trials=100,
)

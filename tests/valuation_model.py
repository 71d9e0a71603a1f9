"""A real model file of the small market, exported by TensorFlow; untrained, so that it costs seconds."""

from __future__ import annotations

import numpy as np

from models.valuation.features import features_of
from models.valuation.modelfile import write_model
from models.valuation.pack import Cutter
from models.valuation.state import last_visible, week_state
from tests.valuation_small import market, meta, week_of


def model_bytes(seeds: int = 1, *, whole: bool = False) -> bytes:
    """The file. Unless it is to be `whole`, without LSTM and regions: they take most of the export."""
    from models.runtime.export_network import export
    from models.runtime.net import INPUTS, Network, Parts, fit_scaler

    table, columns = market()
    cutter = Cutter(week_state(table, last_visible(table), week_of(), head=True))
    cars = table.take(table.series == columns.words["series"]["Nord/Fjord"])
    features = features_of(
        cars, cutter.cut(columns.words["brand"]["Nord"], columns.words["series"]["Nord/Fjord"])
    )
    network = Network(fit_scaler(features, np.arange(len(cars))), seeds, 1, Parts(lstm=whole, regions=whole))
    network({name: np.repeat(getattr(features, name)[None, :1], seeds, 0) for name in INPUTS})
    return write_model(export(network, features), meta(seeds=seeds))

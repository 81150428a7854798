import keras
import numpy as np
import pytest
import tensorflow as tf

from benchmarks import contender, keras2_network, layers, networks, speed


def small_network() -> keras.Model:
    """One of every kind of layer."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((12, 12, 3))
    x = keras.layers.Normalization(mean=[0.4, 0.5, 0.6], variance=[0.04, 0.05, 0.06])(inputs)
    x = keras.layers.Conv2D(4, 3, padding="same", use_bias=False)(x)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    y = keras.layers.Conv2D(4, 1)(x)
    x = keras.layers.Concatenate()([x, keras.layers.Add()([x, y])])
    x = keras.layers.AveragePooling2D(2)(x)
    x = keras.layers.Conv2D(5, 3, strides=2)(keras.layers.ZeroPadding2D(1)(x))
    x = keras.layers.Activation("relu")(x)
    x = keras.layers.MaxPooling2D(3, 2)(keras.layers.ZeroPadding2D(1)(x))
    return keras.Model(inputs, keras.layers.Dense(7)(keras.layers.GlobalAveragePooling2D()(x)))


def test_operations_are_those_of_convolutions_and_dense_layers():
    described, _ = networks.describe(small_network())
    places_times_weights = 12 * 12 * (3 * 3 * 3 * 4) + 12 * 12 * (4 * 4) + 3 * 3 * (3 * 3 * 8 * 5) + 5 * 7
    assert layers.operations(described) == 2 * places_times_weights


def test_operations_of_wide_resnet():
    # 0.328 billion multiply-additions, as its authors' and others' tables have it.
    described, _ = networks.describe(networks.wide_resnet())
    assert layers.operations(described) / 2e9 == pytest.approx(0.328, abs=0.001)


def test_saved_layers_are_the_same_function(tmp_path):
    model = small_network()
    norm = next(layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization))
    norm.set_weights([np.float32([1, 2, 3, 4]), np.float32([0, 1, 0, 1]), np.float32([0.1, 0, 0.2, 0]), np.ones(4)])
    layers.save_network(tmp_path, *networks.describe(model))
    again = keras2_network.keras2_network(*layers.load_network(tmp_path))
    images = np.random.default_rng(0).random((4, 12, 12, 3), np.float32)
    np.testing.assert_allclose(again(images), model(images), rtol=1e-5, atol=1e-6)


def test_another_kind_of_layer_is_refused():
    inputs = keras.Input((4, 4, 1))
    with pytest.raises(ValueError, match="of a kind that the peers are not given: DepthwiseConv2D"):
        networks.describe(keras.Model(inputs, keras.layers.DepthwiseConv2D(3)(inputs)))


def test_random_networks_are_normalized_by_their_images():
    images = np.random.default_rng(0).random((8, 32, 32, 3), np.float32)
    network = networks.Network("small", lambda: networks.wide_resnet(depth=10, width=1), 32, 8, 8)
    model = networks.build(network, images)
    assert all(np.any(one.moving_mean) for one in model.layers if isinstance(one, keras.layers.BatchNormalization))
    assert 0.01 < np.std(model(images)) < 100


def test_weight_gradients_are_counted_where_an_output_needs_them():
    kernel, bias, images = tf.Variable(tf.ones((3, 3, 1, 2))), tf.Variable(tf.ones(2)), tf.ones((1, 8, 8, 1))

    def graph(of_weights: bool):
        @tf.function(autograph=False)
        def function(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                maps = tf.nn.bias_add(tf.nn.conv2d(x, kernel, 1, "SAME"), bias)
                mean, variance = tf.zeros(2), tf.ones(2)
                maps, *_ = tf.compat.v1.nn.fused_batch_norm(maps, bias, bias, mean, variance, is_training=False)
                total = tf.reduce_sum(maps**2)
            return tape.gradient(total, [x, kernel, bias] if of_weights else x)

        return function.get_concrete_function(images).graph

    assert contender.weight_gradients(graph(False)) == 0
    # Of the kernel, the bias, the norm's scale and its shift.
    assert contender.weight_gradients(graph(True)) == 4


def test_what_becomes_a_tensor_is_counted():
    with contender.counted_input() as sizes:
        tf.constant(np.zeros((2, 3), np.float32))
        tf.add(tf.constant(1.0), tf.convert_to_tensor(np.zeros(5, np.float32)))
    assert sizes == [24, 20]


def test_ratios_are_of_the_same_round():
    assert speed.median_ratio([10.0, 5.0, 8.0], [5.0, 2.5, 2.0]) == 2.0
    assert speed.median_ratio([9.0], [3.0, 1.0, 1.0]) == 3.0


def test_rows_compare_with_the_best_peer_and_the_floor():
    rates = {speed.KERNEL: [80.0, 40.0, 82.0], "slow": [10.0, 5.0, 11.0], "fast": [40.0, 20.0, 40.0]}
    floor, kernel, slow, fast = speed.table_rows(rates, [100.0, 50.0, 100.0])
    assert (kernel.of_peer, kernel.of_floor) == (2.0, 0.8)
    assert (slow.of_peer, slow.of_floor) == (0.25, 0.1)
    assert (fast.of_peer, fast.of_floor) == (1.0, 0.4)
    assert (floor.of_peer, floor.of_floor) == (2.5, 1.0)


def test_rows_without_peers():
    _, kernel = speed.table_rows({speed.KERNEL: [50.0]}, [100.0])
    assert (kernel.of_peer, kernel.of_floor) == (None, 0.5)


def test_table():
    rows = [speed.Row("one", [90.0, 100.0, 120.0], 1.5, 0.5), speed.Row("two", [1.0]), speed.Row("three", ())]
    head, *lines = speed.format_table(rows).splitlines()
    assert head.split() == ["images/s", "min", "-", "max", "x", "best", "peer", "of", "floor"]
    assert lines[0].split() == ["one", "100.0", "90.0", "-", "120.0", "1.50", "50%"]
    assert lines[1].split() == ["two", "1.0", "1.0", "-", "1.0", "-", "-"]
    assert lines[2] == f"{'three':<40}  not installed: see docs/performance.md"
    assert len(head) == len(lines[0]) == len(lines[1])


def test_results_take_the_better_floor_and_the_job_from_its_own_rounds():
    rates = {speed.KERNEL: [40.0, 80.0], speed.JOB: [36.0]}
    measured = speed.Measured(rates, {"floor-together": [100.0, 120.0], "floor-apart": [200.0, 160.0]}, [7.0])
    first, *_, job_row, missing, job = speed.results_text(measured, 2_000_000_000, ["peer"]).splitlines()
    assert first == "3x3 convolutions: 180 GFLOP/s (160.0 - 200.0, cores apart); ODIN: 2.00 GFLOP per image"
    assert job_row.split()[-2:] == ["-", "36%"]
    assert missing.split()[:2] == ["peer", "not"]
    assert job == "score job: 0.90 of the kernel in the steady state; start-up 7.0 s (7.0 - 7.0)"


def test_a_contender_that_computes_something_else_is_refused():
    greeting = {"logits": [[1.0, 2.0], [3.0, 0.0]], "scores": [0.501, 0.502]}
    speed.check_agreement("same", greeting, greeting)
    with pytest.raises(SystemExit, match="other: logits differ"):
        speed.check_agreement("other", greeting | {"logits": [[1.0, 2.01], [3.0, 0.0]]}, greeting)
    with pytest.raises(SystemExit, match="other: scores differ"):
        speed.check_agreement("other", greeting | {"scores": [0.5011, 0.5021]}, greeting)
    with pytest.raises(SystemExit, match="other: logits differ"):
        speed.check_agreement("other", greeting | {"logits": [[float("nan"), 2.0], [3.0, 0.0]]}, greeting)

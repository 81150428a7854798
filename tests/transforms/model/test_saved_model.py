"""SavedModels, of Keras 2 and of `model.export`, and those that would do more than compute."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from scipy import special
from tensorflow.core.protobuf import saved_model_pb2

from odin_beam.transforms.detectors.odin import odin
from odin_beam.transforms.detectors.odin_settings import OdinSettings
from odin_beam.transforms.errors import ClassifierError
from odin_beam.transforms.model.classifier import load_classifier
from odin_beam.transforms.model.files import model_digest
from odin_beam.transforms.model.saved_model import forbidden_operations
from tests.helpers import samples

PIXELS = samples.random_images(5).astype(np.float32) / np.float32(255)


def keras_2_model(units: int = 4, activation="softmax"):
    tf_keras.utils.set_random_seed(0)
    wide = tf_keras.initializers.RandomNormal(0, 8)
    return tf_keras.Sequential(
        [
            tf_keras.layers.Input((8, 8, 3)),
            tf_keras.layers.Conv2D(6, 3, activation="relu"),
            tf_keras.layers.BatchNormalization(),
            tf_keras.layers.Dropout(0.5),
            tf_keras.layers.GlobalAveragePooling2D(),
            tf_keras.layers.Dense(units, activation=activation, kernel_initializer=wide),
        ]
    )


def saved(model, tmp_path) -> str:
    folder = str(tmp_path / "saved")
    if isinstance(model, keras.Model):
        model.export(folder, verbose=False)
    else:
        model.save(folder)
    return folder


@pytest.mark.parametrize(
    ("make", "head"),
    [
        (keras_2_model, "probabilities"),
        (lambda: keras_2_model(activation=None), "linear"),
        (lambda: samples.small_model(), "linear"),
    ],
)
def test_a_saved_model_gives_what_it_gave_when_it_was_saved(make, head, tmp_path):
    model = make()
    found = load_classifier(saved(model, tmp_path))
    assert (found.head, found.classes, found.input_shape) == (head, 4, (8, 8, 3))
    logits, moved = odin(found.logits, tf.constant(PIXELS), OdinSettings(epsilon=0.01))
    expected = model(PIXELS, training=False)
    got = tf.nn.softmax(logits) if head == "probabilities" else logits
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)
    assert np.abs(moved - logits).max() > 1e-3


def test_one_sigmoid_unit_gives_the_logarithms_of_both_probabilities(tmp_path):
    model = keras_2_model(1, "sigmoid")
    found = load_classifier(saved(model, tmp_path))
    assert (found.head, found.classes) == ("probabilities", 2)
    np.testing.assert_allclose(special.softmax(found.logits(PIXELS), axis=1)[:, 1:], model(PIXELS), atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: keras_2_model(4, "sigmoid"), "do not sum to 1, like those of one sigmoid per class"),
        (lambda: keras_2_model(1, None), "the model's output is a single number"),
    ],
)
def test_outputs_that_are_no_classes_are_refused(make, message, tmp_path):
    with pytest.raises(ClassifierError, match=message):
        load_classifier(saved(make(), tmp_path))


def test_one_of_several_outputs_is_chosen_by_name(tmp_path):
    inner = samples.small_model()
    inputs = keras.Input((8, 8, 3))
    path = saved(keras.Model(inputs, {"first": inner(inputs), "second": -inner(inputs)}), tmp_path)
    with pytest.raises(ClassifierError, match="choose one with `output_name`; available outputs: first, second"):
        load_classifier(path)
    found = load_classifier(path, output_name="second")
    np.testing.assert_allclose(found.logits(PIXELS), -inner(PIXELS), rtol=1e-5)


class Module(tf.Module):
    """A function of images that also does what the argument says, if it is reached or not."""

    def __init__(self, deed):
        super().__init__()
        self.kernel = tf.Variable(tf.random.stateless_normal((192, 4), [1, 2]))
        self.deed = deed

    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 3], tf.float32)])
    def serve(self, x):
        return {"y": self.deed(tf.reshape(x, [-1, 192]) @ self.kernel)}


def writes(y):
    tf.io.write_file("/tmp/odin-beam-was-here", "x")
    return y


def writes_in_a_branch(y):
    return tf.cond(tf.reduce_sum(y) > 1e9, lambda: writes(y), lambda: y)


def reads(y):
    return y + tf.cast(tf.strings.length(tf.io.read_file("/etc/passwd")), tf.float32)


def runs_python(y):
    return tf.ensure_shape(tf.py_function(lambda v: v, [y], tf.float32), [None, 4])


def saves(y):
    tf.raw_ops.SaveV2(prefix="/tmp/odin-beam-was-here", tensor_names=["y"], shape_and_slices=[""], tensors=[y])
    return y


@tf.function
def _traced_save(y):
    return saves(y)


def calls_what_is_named_like_the_saver(y):
    return _traced_save(y)


def maps_a_file(y):
    data = tf.raw_ops.ImmutableConst(dtype=tf.uint8, shape=[4], memory_region_name="/etc/passwd")
    return y + tf.cast(data, tf.float32)


def ends_the_process(y):
    with tf.control_dependencies([tf.cond(tf.reduce_sum(y) > 1e9, _abort, tf.no_op)]):
        return tf.identity(y)


def _abort():
    return tf.raw_ops.Abort(error_msg="", exit_without_error=True)


def tells_the_time(y):
    return y + tf.cast(tf.timestamp(), tf.float32)


def fills_a_queue(y):
    queue = tf.raw_ops.FIFOQueueV2(component_types=[tf.float32])
    tf.raw_ops.QueueEnqueueV2(handle=queue, components=[y])
    return y


def test_an_operation_that_tensorflow_does_not_know_is_refused():
    description = saved_model_pb2.SavedModel()
    graph = description.meta_graphs.add().graph_def
    graph.node.add(op="MatMul")
    graph.node.add(op="OfSomebodysLibrary")
    graph.node.add(op="__inference_own_12")
    graph.library.function.add().signature.name = "__inference_own_12"
    assert forbidden_operations(description) == ["OfSomebodysLibrary"]
    # A function of that name does not make the operation harmless.
    graph.node.add(op="WriteFile")
    graph.library.function.add().signature.name = "WriteFile"
    assert forbidden_operations(description) == ["OfSomebodysLibrary", "WriteFile"]


def test_the_graph_of_a_tensorflow_1_model_is_run_so_it_must_not_save(tmp_path):
    v1, target = tf.compat.v1, tmp_path / "odin-beam-was-here"
    with v1.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 2, 2, 3])
        save = tf.raw_ops.SaveV2(
            prefix=str(target), tensor_names=["a"], shape_and_slices=[""], tensors=[tf.constant(["b"])]
        )
        with tf.control_dependencies([save]):
            y = tf.matmul(tf.reshape(x, [-1, 12]), tf.ones([12, 3]))
        builder = v1.saved_model.Builder(str(tmp_path / "m"))
        signature = v1.saved_model.predict_signature_def({"x": x}, {"logits": y})
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature})
        builder.save()
    with pytest.raises(ClassifierError, match="SaveV2"):
        load_classifier(str(tmp_path / "m"))
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize(
    ("deed", "operation"),
    [
        (writes, "WriteFile"),
        (writes_in_a_branch, "WriteFile"),
        (reads, "ReadFile"),
        (runs_python, "EagerPyFunc"),
        (saves, "SaveV2"),
        (calls_what_is_named_like_the_saver, "SaveV2"),
        (maps_a_file, "ImmutableConst"),
        (ends_the_process, "Abort"),
        (tells_the_time, "Timestamp"),
        (fills_a_queue, "FIFOQueueV2"),
    ],
)
def test_a_model_that_would_do_more_than_compute_is_refused_before_it_is_loaded(deed, operation, tmp_path):
    module = Module(deed)
    tf.saved_model.save(module, str(tmp_path / "m"), signatures={"serving_default": module.serve})
    with pytest.raises(ClassifierError, match=f"operations that are not run from a model file: .*{operation}"):
        load_classifier(str(tmp_path / "m"))


def as_registered_gradient(library, saver):
    library.registered_gradients.add(gradient_func=saver, registered_op_type="CustomGradient-1")


def as_gradient(library, saver):
    library.gradient.add(function_name=library.function[0].signature.name, gradient_func=saver)


def as_implementation(library, saver):
    next(f for f in library.function if f.signature.name != saver).attr["api_implements"].s = saver.encode()


def as_gradient_type(library, saver):
    served = next(f for f in library.function if f.signature.name != saver and f.node_def)
    served.node_def[0].attr["_gradient_op_type"].s = saver.encode()


def as_argument(library, saver):
    served = next(f for f in library.function if f.signature.name != saver and f.node_def)
    served.arg_attr[0].attr["f"].list.func.add().name = saver


@pytest.mark.parametrize(
    "named", [as_registered_gradient, as_gradient, as_implementation, as_gradient_type, as_argument]
)
def test_the_saver_may_be_named_by_nothing_that_could_run_it(named, tmp_path):
    folder = Path(saved(samples.small_model(), tmp_path))
    description = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    assert forbidden_operations(description) == []
    library = description.meta_graphs[0].graph_def.library
    saver = next(
        f.signature.name
        for f in library.function
        if f.signature.name.startswith("__inference__traced_save") and any(n.op == "SaveV2" for n in f.node_def)
    )
    named(library, saver)
    assert "SaveV2" in forbidden_operations(description)
    (folder / "saved_model.pb").write_bytes(description.SerializeToString())
    with pytest.raises(ClassifierError, match=r"operations that are not run from a model file: .*SaveV2"):
        load_classifier(str(folder))


def test_variables_that_declare_more_than_is_stored_are_refused(tmp_path):
    folder = Path(saved(samples.small_model(), tmp_path))
    (data,) = (folder / "variables").glob("variables.data-*")
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(ClassifierError, match=r"its variables declare [\d,]+ bytes and store 100"):
        load_classifier(str(folder))


def test_an_input_beyond_reason_is_refused(tmp_path):
    inputs = keras.Input((6000, 6000, 3))
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(inputs)))
    with pytest.raises(ClassifierError, match=r"input .* 108,000,000 numbers; the limit is 16,777,216"):
        load_classifier(saved(model, tmp_path))


def test_a_module_that_only_computes_is_loaded(tmp_path):
    module = Module(lambda y: y)
    tf.saved_model.save(module, str(tmp_path / "m"), signatures={"serving_default": module.serve})
    assert load_classifier(str(tmp_path / "m")).classes == 4


def test_a_model_without_serving_function_is_refused_with_the_signatures_there(tmp_path):
    module = Module(lambda y: y)
    tf.saved_model.save(module, str(tmp_path / "m"), signatures={"train": module.serve})
    with pytest.raises(ClassifierError, match="has no signature serving_default; available signatures: train"):
        load_classifier(str(tmp_path / "m"))


@pytest.mark.parametrize("file", ["saved_model.pb", "variables/variables.index"])
@pytest.mark.parametrize("content", [b"", b"garbage" * 10, None])
def test_a_damaged_saved_model_is_refused_in_one_line(file, content, tmp_path):
    folder = Path(saved(samples.small_model(), tmp_path))
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content)
    with pytest.raises(ClassifierError, match=r"cannot be loaded|must end in \.keras") as caught:
        load_classifier(str(folder))
    assert "\n" not in str(caught.value)
    assert "odin-beam-model-" not in str(caught.value)


def test_the_digest_of_a_folder_covers_names_and_contents(tmp_path):
    folder = Path(saved(samples.small_model(), tmp_path))
    digest = model_digest(str(folder))
    assert model_digest(str(folder) + "/") == digest
    (folder / "assets").mkdir(exist_ok=True)
    (folder / "assets/words.txt").write_text("x")
    named = model_digest(str(folder))
    (folder / "assets/words.txt").write_text("y")
    changed = model_digest(str(folder))
    assert len({digest, named, changed}) == 3

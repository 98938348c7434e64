"""Which files of a folder are scans: by content, once each, whatever their names and the way to them."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
import tarfile
import time
import zipfile
from pathlib import Path

import fsspec
import h5py
import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid

from formats_helpers import VALID, random_kspace, write_dicom, write_ismrmrd, xml
from kdrift.data.convert_sources import assign_names, find_all, fingerprint
from kdrift.data.describe import describe
from kdrift.data.discover import find_scans
from kdrift.data.formats import open_volume
from kdrift.data.formats.bart import write_bart
from kdrift.data.same_scans import same_content, same_series
from kdrift.data.store import open_store
from kdrift.data.store_write import write_volume


def nifti(path: Path, seed: int = 0, kind: type = nibabel.Nifti1Image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.random.default_rng(seed).integers(0, 99, (9, 8, 7)).astype(np.int16)
    nibabel.save(kind(data, np.diag([-1.0, -1.0, 3.0, 1.0])), path)
    return path


def series(folder: Path, uid: str, count: int = 3, suffix: str = "", **tags: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        write_dicom(folder / f"IM{uid[-1]}{i}{suffix}", np.full((9, 10), i), position=i, series=uid, **tags)
    return folder


def below(root: Path, found: object = None) -> list[str]:
    return sorted(os.path.relpath(source, root) for source in (found or find_scans(root)).sources)


class TestContent:
    def test_every_format_without_its_suffix(self, tmp_path: Path) -> None:
        for name in ("fastmri", "ismrmrd", "npy", "npz", "nifti", "nifti-gz"):
            (tmp_path / "made").mkdir(exist_ok=True)
            path = VALID[name](tmp_path / "made")
            (tmp_path / "tree").mkdir(exist_ok=True)
            path.rename(tmp_path / "tree" / f"MD5E-{name}")
        series(tmp_path / "tree" / "DICOM" / "PA0", "1.2.3")
        names = [f"MD5E-{name}" for name in ("fastmri", "ismrmrd", "nifti", "nifti-gz", "npy", "npz")]
        assert below(tmp_path / "tree") == ["DICOM/PA0", *names]

    def test_what_only_looks_like_a_scan_is_said(self, tmp_path: Path) -> None:
        shutil.make_archive(str(tmp_path / "papers"), "zip", Path(__file__).parent)  # a ZIP is no .npz
        (tmp_path / "log.gz").write_bytes(b"\x1f\x8b\x08\0")
        (tmp_path / "readme").write_text("scans")
        (tmp_path / "broken.h5").write_text("not HDF5")  # opening it says what is wrong
        np.save(tmp_path / "a.npy", random_kspace((4, 4)))
        found = find_scans(tmp_path)
        assert below(tmp_path, found) == ["a.npy", "broken.h5"]
        assert found.left_out == (
            "left out: 1 archives (gzip: gunzip), which are not unpacked (log.gz); 1 archives (ZIP: unzip), which are"
            " not unpacked (papers.zip); 1 of no known format (readme)"
        )

    def test_pairs_are_one(self, tmp_path: Path) -> None:
        write_bart(tmp_path / "b", random_kspace((1, 2, 4, 4)))
        write_bart(tmp_path / "C", random_kspace((1, 2, 4, 4)))
        for suffix in (".cfl", ".hdr"):
            (tmp_path / f"C{suffix}").rename(tmp_path / f"C{suffix.upper()}")
        nifti(tmp_path / "n.img", kind=nibabel.Nifti1Pair)
        nifti(tmp_path / "o.img", kind=nibabel.AnalyzeImage)
        assert below(tmp_path) == ["C.CFL", "b.cfl", "n.hdr", "o.hdr"]
        for path in (tmp_path / "C.CFL", tmp_path / "C"):
            with open_volume(path) as volume:
                assert volume.info.num_coils == 2

    def test_a_disc(self, tmp_path: Path) -> None:
        """Series without suffix, an index of the disc, a report beside the images, a viewer, an old file."""
        series(tmp_path / "A" / "S1", "1.2.3")
        series(tmp_path / "A" / "S2", "1.2.4")
        series(tmp_path / "A" / "S2", "1.2.5", suffix=".IMA")
        meta = pydicom.dataset.FileMetaDataset()
        meta.MediaStorageSOPClassUID = meta.MediaStorageSOPInstanceUID = pydicom.uid.MediaStorageDirectoryStorage
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        index = pydicom.dataset.FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        for name in ("DICOMDIR", "A/S1/index"):
            index.save_as(tmp_path / name, enforce_file_format=True)
        report = pydicom.dcmread(tmp_path / "A" / "S1" / "IM30")
        report.SeriesInstanceUID = "1.2.9"
        for tag in ("Rows", "Columns", "PixelData"):
            delattr(report, tag)
        report.save_as(tmp_path / "A" / "S1" / "SR0")
        (tmp_path / "R").mkdir()
        report.save_as(tmp_path / "R" / "SR0")
        (tmp_path / "viewer.exe").write_bytes(b"MZ" + bytes(500))
        old = pydicom.dcmread(tmp_path / "A" / "S1" / "IM31")
        (tmp_path / "old").mkdir()
        for name, syntax in (("implicit", ImplicitVRLittleEndian), ("explicit", ExplicitVRLittleEndian)):
            bare = pydicom.Dataset(old)
            implicit = syntax == ImplicitVRLittleEndian
            bare.SOPInstanceUID, bare.ImagePositionPatient = generate_uid(), [0, 0, 4.0 * implicit]
            bare.save_as(tmp_path / "old" / name, implicit_vr=implicit, little_endian=True, enforce_file_format=False)
        found = find_scans(tmp_path)
        assert below(tmp_path, found) == ["A/S1", "A/S2#1.2.4", "A/S2#1.2.5", "old"]
        assert "1 hidden (DICOMDIR)" in found.left_out
        assert "1 DICOM without images (R)" in found.left_out
        with open_volume(tmp_path / "A" / "S1") as volume:
            assert volume.info.num_slices == 3
        with open_volume(tmp_path / "old") as volume:
            assert volume.read_image(0, 2).tolist() == np.full((2, 9, 10), 1).tolist()


class TestNames:
    NAMES = ("a b", "Größe", "x#y", "s[1]", "%41%2F", "ключ", "?*", "1.2.3#4", "CON", "t" * 200)

    def test_any_name_in_folders_and_files(self, tmp_path: Path) -> None:
        odd = os.fsdecode(b"\xff\xfe")  # no text in any encoding
        paths = [nifti(tmp_path / "d" / f"{name}.NII.GZ", seed) for seed, name in enumerate((*self.NAMES, odd))]
        paths += [series(tmp_path / "d" / f"{name}+", "1.2.3") for name in (*self.NAMES, odd)]
        found = find_all([str(tmp_path / "d")])
        assert {source.path for source in found} == {str(path) for path in paths}
        names = assign_names(found, {})
        assert len({name.lower() for name in names.values()}) == len(paths)
        with open_store(tmp_path / "x.zarr", "a") as store:
            for path, name in names.items():
                (again,) = find_all([path])  # named alone, it is no pattern and no series
                assert again.path == path
                with open_volume(path) as volume:
                    write_volume(store, name, volume, source=fingerprint(path, with_hash=True))
            assert len(store.list_volumes()) == len(paths)
            assert assign_names(found, {name: store.attributes(name)["source"] for name in names.values()}) == names

    def test_a_series_and_a_file_of_its_name(self, tmp_path: Path) -> None:
        folder = series(series(tmp_path / "p#1", "1.2.3"), "1.2.4")
        nifti(tmp_path / "p#1" / "x.nii", 1).rename(tmp_path / "p#1#1.2.3")
        found = find_all([str(tmp_path)])
        names = ["p#1#1.2.3", "p#1/#1.2.3", "p#1#1.2.4"]
        assert [os.path.relpath(source.path, tmp_path) for source in found] == names
        assert len(set(assign_names(found, {}).values())) == 3
        for path, slices in ((f"{folder}#1.2.3", 7), (f"{folder}/#1.2.3", 3), (f"{folder}#1.2.4", 3)):
            with open_volume(path) as volume:
                assert (volume.info.kind, volume.info.num_slices) == ("image", slices)

    def test_patterns(self, tmp_path: Path) -> None:
        for name in ("s[1]/a1.npy", "s[1]/b2.npy", "s1/c.npy", "s1/.d.npy"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            np.save(tmp_path / name, random_kspace((4, 4)))
        for pattern, names in {
            "s[1]/*.npy": ["s[1]/a1.npy", "s[1]/b2.npy"],
            "s[1]": ["s[1]/a1.npy", "s[1]/b2.npy"],
            "s[1]/?[12].npy": ["s[1]/a1.npy", "s[1]/b2.npy"],
            "s?/*": ["s1/c.npy"],
            "s1/.*": ["s1/.d.npy"],
            "s*": ["s1/c.npy", "s[1]/a1.npy", "s[1]/b2.npy"],
        }.items():
            assert below(tmp_path, find_scans(tmp_path / pattern)) == names, pattern

    def test_names_that_a_store_cannot_have(self, tmp_path: Path) -> None:
        for name in ("zarr.json.npy", "A.npy", "a.npy", "日本.npy", "中国.npy"):
            np.save(tmp_path / name, random_kspace((4, 4)))
        names = assign_names(find_all([str(tmp_path)]), {}).values()
        assert len({name.lower() for name in names}) == 5
        assert "zarr.json" not in names


class TestLinks:
    def test_hidden_things_are_no_scans(self, tmp_path: Path) -> None:
        for name in ("a/x.nii", "a/.x.nii", ".git/y.nii", "__MACOSX/a/x.nii", "lost+found/z.nii", ".datalad/k.nii"):
            nifti(tmp_path / name)
        (tmp_path / "a" / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
        found = find_scans(tmp_path)
        assert below(tmp_path, found) == ["a/x.nii"]
        assert found.left_out.startswith("left out: 6 hidden (")
        assert below(tmp_path / ".git") == ["y.nii"]  # named, it is looked into

    def test_links_are_followed_inside_alone(self, tmp_path: Path) -> None:
        tree, outside = tmp_path / "tree", nifti(tmp_path / "outside" / "secret.nii").parent
        nifti(tree / "real" / "x.nii")
        links = {
            "a_link.nii": "real/x.nii", "folder": "real", "loop": ".", "real/up": "..", "self.nii": "self.nii",
            "out.nii": outside / "secret.nii", "out": outside, "gone.nii": "nothing.nii",
        }  # fmt: skip
        for name, target in links.items():
            (tree / name).symlink_to(target)
        series(tree / "dicom", "1.2.3")
        series(tmp_path / "elsewhere", "1.2.3")
        (tree / "dicom" / "IM9").symlink_to(tmp_path / "elsewhere" / "IM30")
        found = find_scans(tree)
        assert below(tree, found) == ["real/x.nii"]
        for said in (
            "4 links to what is found already",
            "3 links out of the folder",
            "2 links whose content is not there",
            "1 DICOM folders with links out of the tree (dicom)",
        ):
            assert said in found.left_out
        os.mkfifo(tree / "pipe.nii")
        assert "1 neither files nor folders (pipe.nii)" in find_scans(tree).left_out

    def test_annexed_content(self, tmp_path: Path) -> None:
        """The content of one file is there, of another not; a pair and a part of the tree work too."""
        annex = tmp_path / ".git" / "annex" / "objects"
        write_bart(tmp_path / "b", random_kspace((1, 2, 4, 4)))
        nifti(tmp_path / "sub-01" / "T1w.nii.gz")
        for number, path in enumerate([tmp_path / "b.cfl", tmp_path / "b.hdr", tmp_path / "sub-01" / "T1w.nii.gz"]):
            (annex / f"k{number}").mkdir(parents=True)
            key = path.rename(annex / f"k{number}" / f"MD5E-{number}{path.suffix}")
            path.symlink_to(os.path.relpath(key, path.parent))
        (tmp_path / "sub-01" / "T2w.nii.gz").symlink_to("../.git/annex/objects/zz/none")
        assert below(tmp_path) == ["b.cfl", "sub-01/T1w.nii.gz"]
        found = find_scans(tmp_path / "sub-01")
        assert below(tmp_path / "sub-01", found) == ["T1w.nii.gz"]
        assert "not fetched" in found.left_out
        with open_volume(tmp_path / "b.hdr") as volume:
            assert volume.info.num_coils == 2

    def test_stores_are_no_scans(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", random_kspace((4, 4)))
        with open_volume(tmp_path / "a.npy") as volume, open_store(tmp_path / "x.zarr", "a") as store:
            write_volume(store, "a", volume)
        found = find_scans(tmp_path)
        assert (below(tmp_path, found), found.left_out) == (["a.npy"], "left out: 1 zarr folders (x.zarr)")


def test_archives_copies_and_empty_files_are_said(tmp_path: Path) -> None:
    scan = VALID["fastmri"](tmp_path)
    content, folder = scan.read_bytes(), tmp_path / "in"
    folder.mkdir()
    (folder / "a.h5").write_bytes(content)
    with zipfile.ZipFile(folder / "dicom.zip", "w") as archive:
        archive.writestr("IM0001", b"x")
    with tarfile.open(folder / "all.tar", "w") as tar:
        tar.add(scan, "a.h5")
    packed = {"b.h5.gz": gzip.compress(content), "b.h5.bz2": bz2.compress(content), "b.h5.xz": lzma.compress(content)}
    for name, values in packed.items():
        (folder / name).write_bytes(values)
    for name in ("a.h5.part", "a.h5~", "a.h5.crdownload"):
        (folder / name).write_bytes(content)
    for name in ("empty.dcm", "empty"):
        (folder / name).write_bytes(b"")
    for name in ("@eaDir", "#recycle", "System Volume Information"):
        (folder / name).mkdir()
        (folder / name / "a.h5").write_bytes(content)
    found = find_scans(folder)
    assert found.sources == (str(folder / "a.h5"),)
    for said in (
        "3 hidden (#recycle, @eaDir, System Volume Information)",
        "1 archives (ZIP: unzip), which are not unpacked (dicom.zip)",
        "1 archives (tar: tar -xf), which are not unpacked (all.tar)",
        "1 archives (gzip: gunzip), which are not unpacked (b.h5.gz)",
        "2 empty (empty, empty.dcm)",
        "3 unfinished or older copies by their names (a.h5.crdownload, a.h5.part, a.h5~)",
    ):
        assert said in found.left_out
    for name, said in {"dicom.zip": "ZIP.*run unzip first", "b.h5.xz": "xz.*run unxz", "all.tar": "tar -xf"}.items():
        with pytest.raises(ValueError, match=f"{name}: it is packed .*{said}"):
            open_volume(folder / name)
    np.savez(folder / "none.npz")
    with pytest.raises(ValueError, match=r"none.npz: it is an archive with nothing in it"):
        open_volume(folder / "none.npz")
    with open_volume(folder / "a.h5.part") as volume:  # it was named
        assert volume.info.kind == "kspace"


def test_a_folder_of_many_files_is_listed_in_seconds(tmp_path: Path) -> None:
    for number in range(10_000):
        (tmp_path / f"{number}.hdr").write_bytes(b"# Dimensions\n1\n")
        (tmp_path / f"{number}.cfl").write_bytes(bytes(8))
    started = time.process_time()
    assert len(find_scans(tmp_path).sources) == 10_000
    assert time.process_time() - started < 20


def test_same_content_is_named(tmp_path: Path) -> None:
    nifti(tmp_path / "p1" / "x.nii")
    nifti(tmp_path / "p2" / "copy.nii")
    nifti(tmp_path / "p3" / "x.nii", 1)  # of the same size
    for name in ("p1/d", "p2/d"):
        series(tmp_path / name, "1.2.3")
    shutil.copytree(tmp_path / "p1" / "d", tmp_path / "p4")
    said = same_content(find_scans(tmp_path).sources)
    assert len(said) == 2
    assert any("p1/x.nii" in one and "p2/copy.nii" in one and "p3" not in one for one in said)
    assert any("p1/d" in one and "p4" in one for one in said)
    described = describe(str(tmp_path))
    (parts,) = same_series(find_scans(tmp_path).series)
    assert described["notes"] == [parts, *said]
    assert parts.startswith(f"{tmp_path}/p1/d, {tmp_path}/p2/d, {tmp_path}/p4 have files of one DICOM series (1.2.3)")
    assert described["num_scans"] == 6


def test_a_series_in_two_folders_is_said_by_every_entrance(tmp_path: Path) -> None:
    """Folders with parts of one series, below one root, named one by one, by a pattern, or at a URL."""
    for number, name in enumerate("ab"):
        (tmp_path / name).mkdir()
        for i in range(2):
            write_dicom(tmp_path / name / f"{i}", np.full((9, 10), i), position=2 * number + i, series="1.2.3")
    series(tmp_path / "c", "1.2.4")
    remote = fsspec.filesystem("memory")
    for path in tmp_path.rglob("*"):
        if path.is_file():
            remote.pipe_file(f"/halves/{path.relative_to(tmp_path)}", path.read_bytes())
    for root, places in (
        (str(tmp_path), [str(tmp_path)]),
        (str(tmp_path), [f"{tmp_path}/{name}" for name in "abc"]),
        (str(tmp_path), [f"{tmp_path}/*"]),
        (str(tmp_path), [f"{tmp_path}/a", f"{tmp_path}/*/*"]),
        ("memory://halves", ["memory://halves"]),
    ):
        said: list[str] = []
        assert len(find_all(places, said.append)) == 3
        assert [
            f"{root}/a, {root}/b have files of one DICOM series (1.2.3), and each is read as a scan of its own: put the"
            " parts of a scan into one folder, and copies into one split"
        ] == [each for each in said if "series" in each], places


@pytest.mark.parametrize("folder", ["plain", "s[1] #2"])
def test_urls_by_the_same_rule(folder: str, tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    remote = fsspec.filesystem("memory")
    root = f"/discover/{folder}"
    for name in ("fastmri", "bart", "nifti-gz"):
        path = VALID[name](made)
    (made / "i.nii.gz").rename(made / "no suffix#1")
    (made / "a.h5").rename(made / "%41[2]")
    (made / "._x.nii").write_bytes(b"hidden")
    (made / "notes.txt").write_text("text")
    series(series(made / "dicom", "1.2.3"), "1.2.4")
    for path in made.rglob("*"):
        if path.is_file():
            remote.pipe_file(f"{root}/{path.relative_to(made)}", path.read_bytes())
    url = f"memory:/{root}"
    found = find_scans(url)
    names = ["%41[2]", "b.cfl", "dicom#1.2.3", "dicom#1.2.4", "no suffix#1"]
    assert sorted(source.removeprefix(f"{url}/") for source in found.sources) == names
    assert found.left_out == "left out: 1 hidden (._x.nii); 1 of no known format (notes.txt)"
    for source in found.sources:
        assert find_scans(source).sources == (source,)
        with open_volume(source) as volume, open_volume(made / source.removeprefix(f"{url}/")) as local:
            assert volume.info == local.info
    assert len(set(assign_names(find_all([url]), {}).values())) == 5


def test_hdf5_is_opened_by_hard_links_alone(tmp_path: Path) -> None:
    """A link to a pipe would wait for ever: nothing may open what lies behind a link, not even to look."""
    os.mkfifo(tmp_path / "pipe")
    write_ismrmrd(tmp_path / "other.h5", [], xml(4, 4))
    for name, link in {
        "external": h5py.ExternalLink(str(tmp_path / "pipe"), "dataset"),
        "soft": h5py.SoftLink("/kspace"),
        "dangling": h5py.SoftLink("/nothing"),
        "circle": h5py.SoftLink("/circle"),
    }.items():
        path = tmp_path / f"{name}.h5"
        with h5py.File(path, "w") as file:
            file["kspace"] = random_kspace((1, 2, 4, 4))
            for key in ("dataset", "circle"):
                file[key] = link
            group = file.create_group("group")
            group["xml"] = group["data"] = link
        assert describe(str(path))["shape"].startswith("1 x 2 x 4 x 4")
    with h5py.File(tmp_path / "only.h5", "w") as file:
        file["dataset"] = h5py.ExternalLink(str(tmp_path / "pipe"), "dataset")
        file["reconstruction"] = h5py.ExternalLink(str(tmp_path / "pipe"), "reconstruction")
    with pytest.raises(ValueError, match="link, expected the data itself"):
        describe(str(tmp_path / "only.h5"))
